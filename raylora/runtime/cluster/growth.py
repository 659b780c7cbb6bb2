"""Whether a cluster may yet get nodes that it does not have: what its autoscaler, if any, says about itself.

Called before more workers are refused than the present nodes can hold.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # made at import
from ray.experimental.internal_kv import _internal_kv_get, internal_kv_get_gcs_client

PATIENCE_S = 15.0
"""A cluster that has just started reports after a few seconds."""

CONFIGURATION = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster's configuration on the head, and where its autoscaler reads it."""

HEAD = "node:__internal_head__"
"""What Ray calls a resource that the head alone has."""

Resources = dict[str, float]


@dataclass(frozen=True)
class Room:
    """What a cluster may grow to.

    Args:
        head: Resources of its head.
        added: Those of each node that its autoscaler may add, as many of a type as that type may have.
        at_once: How many of these there may be at one time.
    """

    head: Resources
    added: tuple[Resources, ...]
    at_once: int


def can_grow() -> bool:
    """Whether an autoscaler manages the connected cluster's nodes, as `ray status` would tell."""
    return is_managed(_type_by_node())


def is_managed(type_by_node: dict[str, str]) -> bool:
    """Whether nodes have types that a cluster's configuration names; a mere observer calls them after their ids.

    Args:
        type_by_node: As an autoscaler reports them, by node id or address.
    """
    return any(not name.startswith("node_") for name in type_by_node.values())


def room() -> Room | None:
    """What the connected cluster may grow to; None where that is not known here.

    Its configuration lies on the head, where `ray exec` and Ray's jobs run the command.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    own, file = ray.get_runtime_context().get_node_id(), CONFIGURATION.expanduser()
    head = next((node for node in nodes if node["NodeID"] == own and HEAD in node["Resources"]), None)
    if head is None or not file.is_file():
        return None
    types, by_type = _type_by_node(), dict[str, list[Resources]]()
    for node in nodes:
        if node is not head:
            name = types.get(node["NodeID"]) or types.get(node["NodeManagerAddress"], "")
            by_type.setdefault(name, []).append(node["Resources"])
    return room_of(yaml.safe_load(file.read_text()), head["Resources"], by_type)


def room_of(configuration: dict[str, Any], head: Resources, by_type: dict[str, list[Resources]]) -> Room | None:
    """What a configuration of Ray's cluster launcher lets a cluster grow to; None where it does not say.

    Of hosts that somebody has (`provider: local`) it does not say what they hold: that is known when all are there.

    Args:
        configuration: As `ray up` leaves it on the head, with its defaults.
        head: Resources of the head.
        by_type: Those of the other nodes that are there, by type.
    """
    at_once, added = configuration["max_workers"], list[Resources]()
    for name, kind in configuration["available_node_types"].items():
        most = min(kind.get("max_workers", at_once), at_once)
        if resources := kind.get("resources"):
            added += [resources] * most
        elif len(there := by_type.get(name, [])) >= most:
            added += there
        else:
            return None
    return Room(head, tuple(added), at_once)


def _type_by_node() -> dict[str, str]:
    """Types of the nodes as an autoscaler reports them, by id or, for Ray's first one, by address."""
    report = _of_second if is_autoscaler_v2(fetch_from_server=True) else _of_first
    deadline = time.monotonic() + PATIENCE_S
    while (found := report()) is not None and not found and time.monotonic() < deadline:
        time.sleep(0.5)
    return found or {}


def _of_first() -> dict[str, str] | None:
    """None where there is no autoscaler; nothing as long as it has not reported."""
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if not status:
        return None
    return (json.loads(status).get("autoscaler_report") or {}).get("node_type_mapping") or {}


def _of_second() -> dict[str, str] | None:
    """The same of the autoscaler that `ray up` starts since Ray 2.50; it may be none that has not reported."""
    status = GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status())
    if not status.HasField("autoscaling_state"):
        return {}
    nodes = {node.node_id.hex(): node.ray_node_type_name for node in status.cluster_resource_state.node_states}
    return {node: name or f"node_{node}" for node, name in nodes.items()}
