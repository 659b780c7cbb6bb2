"""What is trained: rows of random tokens with loss on all of them, and the runs of the slots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import torch

from benchmarks.gpu.random_base import VOCAB_SIZE
from benchmarks.gpu.setting import Setting
from benchmarks.workload import LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_GRAD_NORM
from raylora.data.collate import Batch, collate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.run import RunSpec
from raylora.train.step import Share, StepResult, train_step
from raylora.train.trainee import Trainee

NUM_ROWS = 256
SAME_LOSS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""How far two sides' first losses may be apart in a dtype: a kernel may be chosen by the number of rows."""


def run_spec(setting: Setting, num_rows: int, num_tokens: int, **fields: object) -> RunSpec:
    """A run over the random base.

    Args:
        setting: Of the script.
        num_rows: Of a micro-batch.
        num_tokens: Of a row.
        fields: More of the run's.
    """
    settled: dict[str, Any] = {
        "base_model": "random",
        "datasets": [{"path": "random.jsonl"}],
        "load_in_4bit": setting.bits == 4,
        "lora_r": LORA_R,
        "lora_alpha": LORA_ALPHA,
        "micro_batch_size": num_rows,
        "sequence_len": num_tokens,
        "max_grad_norm": MAX_GRAD_NORM,
        "gradient_checkpointing": not setting.keeps_activations,
    }
    return RunSpec.model_validate({**settled, **fields})


@cache
def random_rows(num_tokens: int) -> TokenisedRows:
    """Always the same rows of one length.

    Args:
        num_tokens: Of each.
    """
    generator = torch.Generator().manual_seed(0)
    ids_N = torch.randint(VOCAB_SIZE, (NUM_ROWS * num_tokens,), generator=generator, dtype=torch.int32)
    starts = pa.array(range(0, len(ids_N) + 1, num_tokens), pa.int32())
    columns = {
        name: pa.ListArray.from_arrays(starts, pa.array(values_N.numpy()))
        for name, values_N in (("input_ids", ids_N), ("is_label", torch.ones_like(ids_N, dtype=torch.uint8)))
    }
    return TokenisedRows.of((), [pa.table(columns)])


def batch_of(rows: TokenisedRows, slot: int, num_slots: int, step: int, num_rows: int) -> Batch:
    """A slot's micro-batch of a step; each slot has rows of its own.

    Args:
        rows: To take from, over and over.
        slot: Whose.
        num_slots: That take from them.
        step: From 0.
        num_rows: Of a micro-batch.
    """
    first = (step * num_slots + slot) * num_rows
    return collate([((first + row) % len(rows),) for row in range(num_rows)], rows, 0)


def shares_of(rows: TokenisedRows, num_slots: int, step: int, num_rows: int) -> list[Share]:
    """All slots' parts of a step; arguments as in `batch_of`."""
    return [
        Share(slot, step, LEARNING_RATE, [batch_of(rows, slot, num_slots, step, num_rows)]) for slot in range(num_slots)
    ]


def losses(trainee: Trainee, shares: Sequence[Share]) -> list[float]:
    """Take a step; each slot's loss.

    Args:
        trainee: With an adapter in the slots.
        shares: Of the slots that step.

    Raises:
        NonFiniteLossError: One is not finite.
    """
    found = []
    for result in train_step(trainee, shares).values():
        if not isinstance(result, StepResult):
            raise result
        found.append(result.loss)
    return found
