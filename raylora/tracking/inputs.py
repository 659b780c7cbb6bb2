"""The data a run was trained and validated on, as MLflow shows it.

In come names and digests, out come MLflow's dataset inputs. Called by the runtime, and by the delivery of a spool.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

LONGEST_DIGEST, LONGEST_NAME = 36, 500
"""MLflow's own limits, in characters."""


@dataclass(frozen=True)
class DatasetUse:
    """One data set and what it was used for.

    Args:
        name: Shown in MLflow.
        source: Path, URI or hub id.
        digest: Hexadecimal digest of what was used of it; MLflow keeps the first 36 characters.
        context: What it was used for.
        num_rows: Rows that were used.
        num_tokens: Tokens in them, where counted.
        num_truncated: Those of the rows that were cut.
    """

    name: str
    source: str
    digest: str
    context: Literal["training", "validation"]
    num_rows: int
    num_tokens: int | None = None
    num_truncated: int = 0


def dataset_input(use: DatasetUse) -> DatasetInput:
    """Return MLflow's form of a data set and its use."""
    counts = {"num_rows": use.num_rows, "num_tokens": use.num_tokens, "num_truncated": use.num_truncated}
    dataset = Dataset(
        name=use.name[:LONGEST_NAME],
        digest=use.digest[:LONGEST_DIGEST],
        source_type=_source_type(use.source),
        source=json.dumps({"uri": use.source}),
        profile=json.dumps({name: count for name, count in counts.items() if count is not None}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", use.context)])


def _source_type(source: str) -> str:
    scheme, separator, _ = source.partition("://")
    return scheme if separator else "local"
