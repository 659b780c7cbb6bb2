"""Rows of files as a run meets them: values of images and recordings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raylora.data.prepare import Prepared, prepare
from raylora.spec.run import RunSpec


def prepared_files(
    spec_of: Callable[..., RunSpec], home: Path, kind: str, rows: list[dict[str, Any]] | Path, **fields: Any
) -> Prepared:
    """What becomes of rows of a type; lists are written to a file in the home of the files."""
    if isinstance(rows, list):
        (home / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = home / "asked.jsonl"
    spec = spec_of(home, **{"datasets": [{"path": str(rows), "type": kind}], **fields})
    return prepare(spec, Path(spec.base_model), home / "cache")


def values_of(found: Prepared) -> np.ndarray:
    """Those of all rows that train."""
    return np.stack([values for row in range(len(found.train)) if (values := found.train.values(row)) is not None])
