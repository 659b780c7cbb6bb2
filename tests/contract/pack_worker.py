"""What each of two workers does for the packs' contract: every strategy, slots shared by the ranks or at home on one.

Enters: a folder with the base and the rows, by argument; rank and world size by environment. Leaves there: one JSON
file for each case. Started by `strategy_group`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raylora.spec.run import RunSpec
from raylora.train.calibrate import calibrate
from raylora.train.integrity import check_unchanged, checksum
from raylora.train.member import Member
from raylora.train.trainee import Trainee
from tests.contract.strategy_specs import STRATEGIES
from tests.contract.strategy_worker import digest, keep
from tests.unit.train.pack_run import (
    KINDS,
    MIXED,
    QUANTIZED,
    TWINS,
    admit,
    losses_of,
    member_specs,
    place_tiny,
    state_of,
    train_all,
    turn,
)
from tests.unit.train.tiny_heads import ENCODER_MEMBERS, head_spec
from tests.unit.train.tiny_images import image_spec
from tests.unit.train.tiny_run import open_rows
from tests.unit.train.tiny_seq2seq import TWO_SIDED_MEMBERS, seq2seq_spec

UNDER = ("ddp", "fsdp", "zero3")
MEMBERS = (*MIXED[:5], *KINDS[2::2], MIXED[7], *TWINS)
"""Of every sort: all of them under every strategy would take too long. Twins have their other half on their rank."""
RATED: tuple[dict[str, object], ...] = (
    {"lora_r": 4, "seed": 1},
    {"lora_r": 8, "seed": 2, "max_steps": 4, "micro_batch_size": 3, "gradient_accumulation_steps": 2},
    {"lora_r": 4, "seed": 3, "max_steps": 5, "sample_packing": True, "lora_dropout": 0.2},
)
ON_IMAGES: tuple[dict[str, object], ...] = (
    {"lora_r": 4, "seed": 1, "max_steps": 6},
    {"lora_r": 8, "seed": 2, "max_steps": 4, "micro_batch_size": 5, "lora_dropout": 0.2},
    {"lora_r": 4, "seed": 3, "max_steps": 5, "use_dora": True, "val_set_size": 5, "eval_steps": 2},
)
ON_TEXTS: tuple[dict[str, object], ...] = (*ENCODER_MEMBERS[:3], {**ENCODER_MEMBERS[1], "seed": 5, "max_steps": 6})
ALONE, ALONE_ON_TWO = "alone", "alone-on-two"
HALF_WAY = 2
"""Turns before a member comes, goes or is cloned."""
CHANGES = {"learning_rate": 2e-2, "lora_dropout": 0.4}
"""Of a clone: what population-based training turns."""
BASES: dict[str, dict[str, object]] = {"nf4": {"load_in_4bit": True}, "plain": {}}
VISITED = (("ddp", "nf4"), ("fsdp", "nf4"))
"""Where some members come and go while others train."""
CASES: dict[str, dict[str, object]] = {**BASES, "nf4-recomputed": {**BASES["nf4"], "gradient_checkpointing": True}}
ON_NF4 = (*MEMBERS[:-2], QUANTIZED[0], KINDS[3], *MEMBERS[-2:])
INSIDE = {"lora_dropout", "use_dora", "adapter", "init_lora_weights", "gradient_accumulation_steps"}
RECOMPUTED = [number for number, member in enumerate(ON_NF4) if not number or member.keys() & INSIDE]
"""Of those on an NF4 base a plain one, and members that differ inside of a block, which is what is computed again."""
MEMBERS_ON: dict[str, Sequence[dict[str, object]]] = {
    "plain": MEMBERS[::3],
    "nf4": ON_NF4,
    "nf4-recomputed": [ON_NF4[number] for number in RECOMPUTED],
}
"""By case."""


def specs_of(folder: Path, strategy: str, case: str) -> list[RunSpec]:
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    return member_specs(folder, MEMBERS_ON[case], distributed=place, **CASES[case])


def rated_specs(folder: Path, strategy: str) -> list[RunSpec]:
    """Runs under KTO whose steps and evaluations begin with unequal numbers of passes for their reference points."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    rated = {"rl": "kto", "datasets": [{"path": str(folder / "rated.jsonl"), "type": "unpaired_preference"}]}
    return member_specs(folder, RATED, distributed=place, load_in_4bit=True, **rated)


def image_specs(folder: Path, strategy: str) -> list[RunSpec]:
    """Runs on images of unequal lengths, so that ranks come to be without any."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    return [image_spec(folder / "images", distributed=place, load_in_4bit=True, **member) for member in ON_IMAGES]


def text_specs(folder: Path, strategy: str) -> list[RunSpec]:
    """Runs over an encoder that drops values itself, each with a head of its own."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    common = {"val_set_size": 6, "eval_steps": 2, "max_steps": 5, "load_in_4bit": True, "distributed": place}
    return [head_spec(folder / "texts", "roberta", "seq_cls", **{**common, **member}) for member in ON_TEXTS]


def source_specs(folder: Path, strategy: str) -> list[RunSpec]:
    """Runs from sources to targets, over a base that drops values itself."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    common: dict[str, Any] = {"load_in_4bit": True, "distributed": place}
    return [seq2seq_spec(folder / "sources", "flan-t5", **common, **member) for member in TWO_SIDED_MEMBERS]


ON_OTHER_BASES = {"texts": text_specs, "sources": source_specs}


class Visitors:
    """On each rank a member that goes half-way and comes back from its save, and a clone of another one with changes.

    Args:
        trainee: With slots at home.
        members: Of this rank, by number, each with a store; that which is away is not among them.
        folder: With the base and the rows.
    """

    def __init__(self, trainee: Trainee, members: dict[int, Member], folder: Path) -> None:
        self._trainee, self._members, self._folder = trainee, members, folder
        self.leaver, self.donor, *_ = members
        self.told_before: dict[int, list[float]] = {}
        self.clones: list[Member] = []

    def move(self, number: int) -> None:
        """Come and go before a turn of that number."""
        if number == HALF_WAY:
            self._go()
        elif number == HALF_WAY + 1:
            self._come_back()

    def _go(self) -> None:
        """Save both; the first gives its slot up, and the clone gets one."""
        leaver, donor = (self._members[number] for number in (self.leaver, self.donor))
        for member in (leaver, donor):
            member.save()
        self._spec, self._saved, self.told_before[self.leaver] = leaver.spec, leaver.settle(), losses_of(leaver)
        self._trainee.release(self._members.pop(self.leaver).slot)
        changed = donor.spec.model_copy(update=CHANGES)
        self.clones.append(admit(self._trainee, 100, changed, self._folder, start_from=donor.settle()))

    def _come_back(self) -> None:
        """Into another slot, beside the clone."""
        member = admit(self._trainee, 101, self._spec, self._folder, start_from=self._saved)
        self._members[self.leaver] = member


def train_pack(
    specs: Sequence[RunSpec], folder: Path, slots_stay_on_ranks: bool, saves: Path | None = None
) -> list[dict[str, Any]]:
    """Losses and adapters of all members, in order; one comes late, and widths were tried before all of them.

    With a folder for saves some come and go at home on each rank, which no other member must notice.
    """
    trainee = place_tiny(specs[0], slots_stay_on_ranks)
    ranks, bits = trainee.ranks, checksum(trainee)
    rows, _ = open_rows(specs[0], folder / "cache")
    tried = calibrate(trainee, specs[:2], rows.step(0, ranks.rank, ranks.world_size)[0], 2, 6)
    assert set(ranks.gather(tried.num_slots)) == {tried.num_slots}, "ranks would offer different widths"
    mine = [k for k in range(len(specs)) if not slots_stay_on_ranks or k % ranks.world_size == ranks.rank]
    stores = {k: None if saves is None else saves / str(k) for k in mine}
    members = {k: admit(trainee, k, specs[k], folder, stores[k]) for k in mine if k != len(specs) - 1}
    visitors = None if saves is None else Visitors(trainee, members, folder)
    for number in range(12):  # more turns than any member has steps: those at their end sit by
        if number == HALF_WAY and len(specs) - 1 in mine:
            members[len(specs) - 1] = admit(trainee, len(specs) - 1, specs[-1], folder)
        if visitors is not None:
            visitors.move(number)
        turn(trainee, [*members.values(), *(visitors.clones if visitors else ())])
    check_unchanged(trainee, bits)
    told_before = visitors.told_before if visitors else {}
    speaks = slots_stay_on_ranks or ranks.rank == 0
    seen = {
        k: {
            "losses": told_before.get(k, []) + losses_of(member),
            "digest": digest(state_of(trainee, member).items()),
        }
        for k, member in members.items()
        if speaks
    }
    whole = {k: found for of_rank in ranks.gather(seen) for k, found in of_rank.items()}
    return [whole[k] for k in range(len(specs))]


def see_alone(folder: Path) -> None:
    """Every member in a process and a pack of its own."""
    for base in BASES:
        keep(folder, f"{ALONE}-{base}", partial(train_each_alone, specs_of(folder, "ddp", base), folder))
    keep(folder, f"{ALONE}-rated", partial(train_each_alone, rated_specs(folder, "ddp"), folder))
    keep(folder, f"{ALONE}-images", partial(train_each_alone, image_specs(folder, "ddp"), folder))
    for name, specs_on in ON_OTHER_BASES.items():
        keep(folder, f"{ALONE}-{name}", partial(train_each_alone, specs_on(folder, "ddp"), folder))


def train_each_alone(specs: Sequence[RunSpec], folder: Path) -> list[dict[str, Any]]:
    return [train_alone(spec, folder) for spec in specs]


def train_alone(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """One member and nobody else."""
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, folder)
    train_all(trainee, [member])
    return {"losses": losses_of(member), "digest": digest(state_of(trainee, member).items())}


def see_together(folder: Path) -> None:
    """Every strategy on the ranks of this group."""
    for base in BASES:
        keep(folder, f"{ALONE_ON_TWO}-{base}", partial(train_each_alone, specs_of(folder, "ddp", base), folder))
    for strategy in UNDER:
        for case in CASES:
            specs = specs_of(folder, strategy, case)
            keep(folder, f"{strategy}-shared-{case}", partial(train_pack, specs, folder, False))
            saves = folder / "saves" / strategy if (strategy, case) in VISITED else None
            keep(folder, f"{strategy}-at-home-{case}", partial(train_pack, specs, folder, True, saves))
        keep(folder, f"{strategy}-at-home-rated", partial(train_pack, rated_specs(folder, strategy), folder, True))
        keep(folder, f"{strategy}-at-home-images", partial(train_pack, image_specs(folder, strategy), folder, True))
        for name, specs_on in ON_OTHER_BASES.items():
            specs = specs_on(folder, strategy)
            keep(folder, f"{strategy}-at-home-{name}", partial(train_pack, specs, folder, True))
            keep(folder, f"{strategy}-shared-{name}", partial(train_pack, specs, folder, False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    see_together(Path(sys.argv[1]))
    dist.destroy_process_group()
