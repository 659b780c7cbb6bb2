"""A pack that grows: its speed with some of its slots at work, or its memory while slots are admitted.

Started by `slots.py` with the path of a workload, which asks for one of the two: memory is watched with glibc giving
freed blocks back, which costs speed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.player import Player, play
from benchmarks.raylora_side import CPU, run_spec
from benchmarks.workload import LEARNING_RATE, Workload
from raylora.data.collate import collate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.train.build import place_base
from raylora.train.memory import PeakMemory, anonymous_bytes
from raylora.train.prediction.live_bytes import LiveBytes
from raylora.train.step import Share, train_step
from raylora.train.trainee import Trainee

STEPS_UNTIL_STEADY = 2
"""The first makes the optimizer's state, the second finds all there."""


def main(player: Player) -> None:
    """Place the base, then measure all counts of slots once a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    counts = work.options["counts"]
    pack = Pack(work)
    if not work.watches_memory:
        pack.admit(max(counts))
    player.tell(start_bytes=pack.start_bytes, base_bytes=pack.base_bytes)
    while player.wait():
        if work.watches_memory:
            player.tell(counts={str(count): pack.memory(count) for count in counts})
        else:
            player.tell(counts={str(count): pack.seconds(count) for count in counts})


class Pack:
    """A base and its slots.

    Args:
        work: Its rows are of one length; one row a slot and step.
    """

    def __init__(self, work: Workload) -> None:
        self._rows = TokenisedRows.of((), [work.table()])
        self._spec = run_spec(replace(work, options={"sequence_len": int(self._rows.lengths.max())}))
        with PeakMemory(CPU) as memory:
            self._trainee: Trainee = place_base(self._spec, Path(work.base), ("base", None), CPU)
        self._trainee.train_mode(True)
        self.start_bytes, self._step = memory.start_bytes, 0
        model = self._trainee.model
        self._live = LiveBytes([*model.parameters(), *model.buffers()])

    @property
    def base_bytes(self) -> int:
        """Bytes of the base."""
        return self._trainee.held_base_bytes

    def admit(self, count: int) -> None:
        """Fill slots up to so many."""
        for slot in range(len(self._trainee.steppers), count):
            self._trainee.admit(slot, self._spec.model_copy(update={"seed": slot}))

    def seconds(self, count: int) -> dict[str, Any]:
        """One step of the first slots."""
        start = perf_counter()
        num_tokens = self._run(count)
        return {"wall_s": perf_counter() - start, "num_tokens": num_tokens}

    def memory(self, count: int) -> dict[str, Any]:
        """Grow to so many slots, and step.

        Returns:
            Of the base its bytes. Of what was made since: what lives between steps and the most within a step, counted
            exactly, and the process's own memory above its start after and within a step.
        """
        with self._live:  # type: ignore[no-untyped-call]
            self.admit(count)
            for _ in range(STEPS_UNTIL_STEADY):
                self._run(count)
            self._live.lap()
            self._run(count)
            live_peak_bytes, live_bytes = self._live.lap(), self._live.now_bytes
        with PeakMemory(CPU) as memory:
            for _ in range(STEPS_UNTIL_STEADY):
                self._run(count)
        return {
            "base_bytes": self.base_bytes,
            "live_bytes": live_bytes,
            "live_peak_bytes": live_peak_bytes,
            "resident_bytes": anonymous_bytes() - self.start_bytes,
            "resident_peak_bytes": memory.peak_bytes - self.start_bytes,
        }

    def _run(self, count: int) -> int:
        shares = self._shares(count)
        for result in train_step(self._trainee, shares).values():
            if isinstance(result, Exception):
                raise result
        self._step += 1
        return sum(batch.num_tokens for share in shares for batch in share.batches)

    def _shares(self, count: int) -> Sequence[Share]:
        first, num_rows = self._step * count, len(self._rows)
        return [
            Share(slot, self._step, LEARNING_RATE, [collate([((first + slot) % num_rows,)], self._rows, 0)])
            for slot in range(count)
        ]


if __name__ == "__main__":
    play(main)
