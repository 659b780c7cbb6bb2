"""Run by a test: prepares rows, or reads batches of rows in tokens, and prints the most memory that each time took.

One process does it all; the first time pays for the libraries. Only anonymous memory counts: pages of files that are
mapped are the system's to drop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch

from raylora.data.batches import open_batches
from raylora.data.prepare import prepare
from raylora.data.sources.source import Source
from raylora.data.tokens.tokenise import tokens_table
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.fields.data import DatasetSpec
from raylora.train.memory import PeakMemory
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import small_tokenizer

CPU = torch.device("cpu")
ROW_TOKENS, ROWS_AT_ONCE = 1000, 100
ROW_BYTES = 5 * ROW_TOKENS
"""Four for a token's id, one for whether it has loss."""


def preparing(file: Path, base: Path) -> tuple[int, int]:
    """Peak, and rows prepared, of a file of text."""
    datasets.disable_progress_bars()
    spec = run_spec(datasets=[{"path": str(file), "type": "text"}], val_set_size=50)
    with PeakMemory(CPU) as peak:
        prepared = prepare(spec, base, file.parent / "cache")
    return peak.peak_bytes - peak.start_bytes, len(prepared.train)


def reading(folder: Path, num_bytes: int) -> tuple[int, int]:
    """Peak, and tokens read, of one epoch over so many bytes of tokens."""
    write_tokens(folder / "tokens.arrow", num_bytes // ROW_BYTES)
    spec = run_spec(sequence_len=ROW_TOKENS, micro_batch_size=8)
    with PeakMemory(CPU) as peak:
        rows = TokenisedRows.of([Source(DatasetSpec(path="rows.jsonl"), "", ())], [tokens_table(folder)])
        batches = open_batches(spec, small_tokenizer(), rows)
        steps = range(batches.num_steps())
        num_tokens = sum(batch.num_tokens for step in steps for batch in batches.step(step, 0, 1))
    return peak.peak_bytes - peak.start_bytes, num_tokens


def write_tokens(file: Path, num_rows: int) -> None:
    starts = pa.array(np.arange(0, (ROWS_AT_ONCE + 1) * ROW_TOKENS, ROW_TOKENS, dtype=np.int32))
    ids = np.arange(ROWS_AT_ONCE * ROW_TOKENS, dtype=np.int32) % 64
    columns = {"input_ids": ids, "is_label": np.ones_like(ids, dtype=np.uint8)}
    batch = pa.record_batch({name: pa.ListArray.from_arrays(starts, cells) for name, cells in columns.items()})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(num_rows // ROWS_AT_ONCE):
            writer.write_batch(batch)


if __name__ == "__main__":
    what, place, *others = sys.argv[1:]
    if what == "preparing":
        print(json.dumps([preparing(Path(file), Path(place)) for file in others]))
    else:
        print(json.dumps([reading(Path(place), int(num_bytes)) for num_bytes in others]))
