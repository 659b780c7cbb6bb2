"""What a run leaves, in a word for tables and errors: an adapter, or a model where its base trained itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def what_lies_at(uri: str) -> str:
    """``adapter`` or ``model``.

    Args:
        uri: Of the folder that a run or a trial has published.
    """
    return "model" if uri.endswith("/model") else "adapter"


def what_comes_of(spec: Mapping[str, Any]) -> str:
    """``adapter`` or ``model``.

    Args:
        spec: Of a run, as its record keeps it.
    """
    return "model" if spec.get("adapter") == "full" else "adapter"
