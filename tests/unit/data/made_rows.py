"""Tokenised rows made in memory, for the tests of what comes after tokenising."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raylora.data.sources.source import Source
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.fields.data import DatasetSpec
from raylora.spec.run import RunSpec


def made_rows(lengths: Sequence[int], *, weights: Sequence[float] = (1.0,), vocab: int = 64) -> TokenisedRows:
    """Rows of random tokens, the second half of each with loss, dealt to as many sources as there are weights."""
    random = np.random.default_rng(0)
    tables = []
    for part in np.array_split(np.asarray(lengths), len(weights)):
        ids = [random.integers(0, vocab, length).tolist() for length in part]
        tables.append(
            pa.table(
                {
                    "file": pa.array([0] * len(part), pa.int32()),
                    "number": pa.array(range(1, len(part) + 1), pa.int64()),
                    "input_ids": pa.array(ids, pa.list_(pa.int32())),
                    "is_label": pa.array([[at >= len(row) // 2 for at in range(len(row))] for row in ids]).cast(
                        pa.list_(pa.uint8())
                    ),
                }
            )
        )
    sources = [Source(DatasetSpec(path="rows.jsonl", weight=weight), "", ()) for weight in weights]
    return TokenisedRows.of(sources, tables)


def run_spec(**fields: object) -> RunSpec:
    """A run's specification with what the data room reads."""
    return RunSpec.model_validate({"base_model": "base", "datasets": [{"path": "rows.jsonl"}], **fields})


def blocks_of(ids: list[int], num_tokens: int) -> list[list[int]]:
    """As `group_texts` of transformers' scripts cuts, but that a shorter last block stays, and is none of one token."""
    blocks = [ids[start : start + num_tokens] for start in range(0, len(ids), num_tokens)]
    if len(blocks[-1]) == 1 < len(blocks):
        blocks[-2:] = [blocks[-2][:-1], blocks[-2][-1:] + blocks[-1]]
    return blocks
