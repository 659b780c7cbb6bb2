"""A specification as MLflow's flat parameters. In comes a run's or a sweep's, out come short texts by dotted name.

Called when an MLflow run is created; the whole specification is logged beside them as ``spec.yaml``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

LONGEST_VALUE, LONGEST_NAME = 6000, 250
"""MLflow's own limits, in characters."""

CUT = " ... cut, see spec.yaml"


def params(spec: BaseModel) -> dict[str, str]:
    """Return every field that has a value, nested ones with dots: ``distributed.strategy``, ``datasets.0.path``."""
    return flat_params(spec.model_dump(mode="json"))


def flat_params(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return values by dotted name, as short as MLflow wants them; those that are absent are left out."""
    return {mlflow_name(name)[:LONGEST_NAME]: _short(value) for name, value in _leaves(tree)}


def mlflow_name(name: str) -> str:
    """Return `name` with an underscore for every character that MLflow refuses in names of parameters and metrics."""
    return re.sub(r"[^/\w.\- :]", "_", name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        match value:
            case Mapping():
                yield from _leaves(value, f"{prefix}{name}.")
            case [Mapping(), *_]:
                yield from _leaves({str(number): item for number, item in enumerate(value)}, f"{prefix}{name}.")
            case None | []:
                continue
            case _:
                yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - len(CUT)] + CUT
