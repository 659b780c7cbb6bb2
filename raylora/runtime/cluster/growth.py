"""Whether a cluster may yet get nodes that it does not have: what its autoscaler, if any, says about itself.

Called before more workers are refused than the present nodes can hold.
"""

from __future__ import annotations

import json
import time

from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

PATIENCE_S = 15.0
"""A cluster that has just started reports after a few seconds."""


def can_grow() -> bool:
    """Whether an autoscaler manages the connected cluster's nodes, by the status that `ray status` shows."""
    deadline = time.monotonic() + PATIENCE_S
    while (status := _internal_kv_get(DEBUG_AUTOSCALING_STATUS)) and time.monotonic() < deadline:
        if report := json.loads(status).get("autoscaler_report"):
            return is_managed(report["node_type_mapping"] or {})
        time.sleep(0.5)
    return False


def is_managed(type_by_node: dict[str, str]) -> bool:
    """Whether nodes have types that a cluster's configuration names; a mere observer calls them after their ids.

    Args:
        type_by_node: As an autoscaler reports them, by node id or address.
    """
    return any(not name.startswith("node_") for name in type_by_node.values())
