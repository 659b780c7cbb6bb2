"""The rows of every step of a sweep's trials, in the order in which raylora takes them, for the other side to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylora.data.batches import open_batches
from raylora.data.collate import Batch
from raylora.data.prepare import prepare
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.store.home import cache_dir


def step_batches(run: Mapping[str, Any], base: Path, num_steps: int) -> list[list[Batch]]:
    """The micro-batches of each step.

    Args:
        run: Fields of the run; its knobs change no row.
        base: Folder of the base.
        num_steps: Of a trial.
    """
    spec = RunSpec.model_validate(dict(run))
    batches = open_batches(spec, load_tokenizer(base), prepare(spec, base, cache_dir()).train)
    return [batches.step(step, 0, 1) for step in range(num_steps)]


def write_rows(run: Mapping[str, Any], base: Path, folder: Path, num_steps: int) -> Path:
    """Write the rows of all steps, one after the other; returns the file.

    Raises:
        ValueError: A row is not as long as the run allows, or has tokens without loss: sides would pad otherwise.
    """
    taken = [batch for step in step_batches(run, base, num_steps) for batch in step]
    if any(batch.num_label_tokens != batch.num_tokens - len(batch.input_ids_BT) for batch in taken):
        raise ValueError("a row has tokens without loss")
    rows = [row for batch in taken for row in batch.input_ids_BT.tolist()]
    if {len(row) for row in rows} != {run["sequence_len"]}:
        raise ValueError(f"a row has not {run['sequence_len']} tokens")
    path = folder / f"steps-{run['sequence_len']}.parquet"
    pq.write_table(pa.table({"input_ids": rows}), path)
    return path
