"""A pack of adapters, and the same adapters one after the other, on one placed base: both sides in one process.

Started by `packing.py` and `packing_workers.py` with the path of a workload. Slots 0 to K-1 step together; slots K to
2K-1 have the same settings and rows and step alone, through the same code. So their losses must agree turn after turn,
in float32 with one thread bit for bit, or the side breaks off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.flops import step_flops
from benchmarks.gathers import gather_s
from benchmarks.player import Player, play
from benchmarks.products import rates
from benchmarks.raylora_side import CPU, run_spec
from benchmarks.workload import LEARNING_RATE, Workload
from raylora.data.collate import Batch, collate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.train.build import place_base
from raylora.train.step import Share, StepResult, train_step

SAME_LOSS = {"float32": 1e-3, "bfloat16": 2e-2}
"""Parts of a loss. With more threads than one, batched products sum in an order that depends on their number, and AdamW
makes more of it at every step. bfloat16 has steps of 0.4 %, and is held to them in the first turn only: after some
updates of single short rows the sides are different adapters."""


def main(player: Player) -> None:
    """Place the base, then let every length have one step of both sides a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    if work.num_ranks > 1:
        dist.init_process_group("gloo")
    packing = Packing(work, int(os.environ["RANK"]))
    player.tell(ran=packing.trainee.strategy.name, base_bytes=packing.trainee.held_base_bytes)
    turn = 0
    while player.wait():
        player.tell(lengths={name: packing.turn(name, turn) for name in work.options["rows"]})
        turn += 1


class Packing:
    """Both sides on one rank.

    Args:
        work: Its options: ``num_slots``; ``settings``, of the slots in turn; ``rows``, a file of rows by their length;
            ``slots_stay_on_ranks``, under which there is only the pack; ``rates_s``, how long to measure each of the
            machine's products, 0 for neither them nor gathers; ``square``, how large its large matrices are.
        rank: Of this process.
    """

    def __init__(self, work: Workload, rank: int) -> None:
        options = work.options
        self._num_slots, self._num_ranks, self._rank = options["num_slots"], work.num_ranks, rank
        self._at_home, self._rates_s = options["slots_stay_on_ranks"], options["rates_s"]
        self._square = options["square"]
        self._holds_always, self._same_loss = work.dtype == "float32", SAME_LOSS[work.dtype]
        self._is_exact = self._holds_always and torch.get_num_threads() == 1
        self._base = Path(work.base)
        self._rows = {
            name: TokenisedRows.of((), [replace(work, rows=path).table()]) for name, path in options["rows"].items()
        }
        longest = max(int(rows.lengths.max()) for rows in self._rows.values())
        spec = run_spec(replace(work, options={"sequence_len": longest}))
        self.trainee = place_base(
            spec, self._base, ("base", None), CPU, slots_stay_on_ranks=options["slots_stay_on_ranks"]
        )
        self.trainee.train_mode(True)
        for slot in self._mine:
            for side in (0,) if self._at_home else (0, self._num_slots):
                settings = options["settings"][slot % len(options["settings"])]
                self.trainee.admit(side + slot, spec.model_copy(update={"seed": slot, **settings}))

    def turn(self, name: str, turn: int) -> dict[str, Any]:
        """One step of each side on rows of one length; they take turns in going first."""
        sides = [self._pack] if self._at_home else [self._alone, self._pack]
        told: dict[str, Any] = {}
        for side in sides if turn % 2 else sides[::-1]:
            self.trainee.ranks.gather(None)  # all ranks start together
            told |= side(name, turn)
        is_held = self._holds_always or turn == 0
        if is_held and not self._at_home and not self._are_alike(told["alone_losses"], told["pack_losses"]):
            raise ValueError(f"rows of {name} tokens: a pack's losses are not those of its slots alone: {told}")
        shares = self._shares(name, turn, 0)
        told["num_tokens"] = sum(batch.num_tokens for share in shares for batch in share.batches)
        told["flops"] = step_flops(self.trainee, shares)
        if self._rates_s:
            told["flops_per_s"] = rates(self._base, told["num_tokens"], self._rates_s, self._square)
            told["gather_s"] = gather_s(self.trainee) if self._num_ranks > 1 else 0.0
        return told

    def _are_alike(self, alone: list[float], pack: list[float]) -> bool:
        if self._is_exact:
            return alone == pack
        return max(abs(one - other) / one for one, other in zip(alone, pack, strict=True)) < self._same_loss

    def _alone(self, name: str, turn: int) -> dict[str, Any]:
        start, losses = perf_counter(), []
        for share in self._shares(name, turn, self._num_slots):
            losses += _losses(train_step(self.trainee, [share]))
        return {"alone_s": perf_counter() - start, "alone_losses": losses}

    def _pack(self, name: str, turn: int) -> dict[str, Any]:
        start = perf_counter()
        losses = _losses(train_step(self.trainee, self._shares(name, turn, 0)))
        return {"pack_s": perf_counter() - start, "pack_losses": losses}

    @property
    def _mine(self) -> Sequence[int]:
        """Slots that this rank trains: all, or those that are at home here."""
        return range(self._rank, self._num_slots, self._num_ranks) if self._at_home else range(self._num_slots)

    def _shares(self, name: str, turn: int, first_slot: int) -> list[Share]:
        return [Share(first_slot + slot, turn, LEARNING_RATE, [self._batch(name, turn, slot)]) for slot in self._mine]

    def _batch(self, name: str, turn: int, slot: int) -> Batch:
        """A slot's step has one row for each rank: this rank's own, or all of them where the slot is at home."""
        rows = self._rows[name]
        first = (turn * self._num_slots + slot) * self._num_ranks
        taken = range(first, first + self._num_ranks) if self._at_home else [first + self._rank]
        return collate([(row % len(rows),) for row in taken], rows, 0)


def _losses(results: dict[int, Any]) -> list[float]:
    losses = []
    for result in results.values():
        if not isinstance(result, StepResult):
            raise result
        losses.append(result.loss)
    return losses


if __name__ == "__main__":
    play(main)
