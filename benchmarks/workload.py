"""What a side is to do, as a file that every rank of every side reads.

Rows lie in the order in which they are taken: micro-batch after micro-batch, the ranks' within one step side by side,
as accelerate deals them out. So both sides of a comparison train on the same rows in the same step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LORA_R, LORA_ALPHA, LEARNING_RATE, MAX_GRAD_NORM = 16, 32, 2e-4, 1.0
UNLIKE: list[dict[str, Any]] = [
    {"lora_r": 16},
    {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]},
    {"lora_r": 8, "lora_dropout": 0.1},
    {"lora_r": 32, "lora_target_modules": ["gate_proj", "up_proj", "down_proj"]},
    {"lora_r": 8, "use_dora": True},
    {"lora_r": 24, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    {"lora_r": 16, "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"]},
    {"lora_r": 12, "use_rslora": True},
]
"""Settings of slots that share no call but the frozen products: ranks, targets, dropouts and kinds differ."""


@dataclass(frozen=True)
class Workload:
    """One side's work.

    Args:
        base: Folder of the base model.
        rows: Parquet file with the columns ``input_ids`` and ``is_label``.
        quantized: Base in NF4 with double quantization.
        dtype: What is computed in: ``float32`` or ``bfloat16``.
        strategy: ``ddp``, ``fsdp``, ``zero1``, ``zero2`` or ``zero3``.
        num_ranks: Processes of the side.
        micro_batch_rows: Rows of one forward pass of one rank; with bins, bins.
        accumulation_steps: Forward passes' worth of rows in a step.
        bin_tokens: Length of a bin, 0 for rows padded to the longest of their micro-batch.
        num_threads: Threads of each rank.
        watches_memory: Sample the memory while working, which costs a little time.
        options: What one side alone understands.
    """

    base: str
    rows: str
    quantized: bool = True
    dtype: str = "float32"
    strategy: str = "ddp"
    num_ranks: int = 1
    micro_batch_rows: int = 4
    accumulation_steps: int = 1
    bin_tokens: int = 0
    num_threads: int = 1
    watches_memory: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Workload:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(Path(path).read_text()))

    def write(self, path: Path) -> str:
        """Write it for the ranks; returns the path."""
        path.write_text(json.dumps(asdict(self)))
        return str(path)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of a side starts with."""
        # What glibc keeps of freed blocks is nobody's use of memory; giving it back at once costs a third of the speed.
        gives_back = {"MALLOC_TRIM_THRESHOLD_": str(10**6)} if self.watches_memory else {}
        return gives_back | {
            "OMP_NUM_THREADS": str(self.num_threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "DS_ACCELERATOR": "cpu",
        }

    def table(self) -> pa.Table:
        """The rows, cut to whole steps."""
        table = pq.read_table(self.rows)
        per_step = self.num_ranks * self.micro_batch_rows * self.accumulation_steps
        if len(table) < per_step:
            raise ValueError(f"{self.rows}: {len(table)} rows, a step takes {per_step}")
        return table.slice(0, len(table) // per_step * per_step)

    def micro_batches(self, num_rows: int, step: int, rank: int) -> Iterator[range]:
        """Positions of the rows of each micro-batch of a rank in a step; steps start again at the end of the rows."""
        for micro_step in range(self.accumulation_steps):
            place = (step * self.accumulation_steps + micro_step) * self.num_ranks + rank
            start = place * self.micro_batch_rows % num_rows
            yield range(start, start + self.micro_batch_rows)
