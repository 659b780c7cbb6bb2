"""Packs small enough for a test: members over one tiny base, each with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from raylora.store.kept import fall_back, give_up_beyond
from raylora.train.build import place_base
from raylora.train.events import Event, EventKind, Wish
from raylora.train.member import Member
from raylora.train.trainee import Trainee
from raylora.train.turn import step_all, validate_all
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, tiny_spec

DIGESTS = {"base": "b" * 64, "data": "d" * 64}
COMMON = {"val_set_size": 6, "eval_steps": 2, "max_steps": 6}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MIXED: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "lora_alpha": 8, "seed": 1, "max_steps": 6},
    {"lora_r": 8, "lora_alpha": 4, "seed": 2, "max_steps": 4, "learning_rate": 1e-2, "lr_scheduler": "cosine"},
    {"lora_r": 3, "seed": 3, "max_steps": 6, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2},
    {"lora_r": 16, "seed": 4, "max_steps": 5, "gradient_accumulation_steps": 3, "weight_decay": 0.3},
    {"lora_r": 1, "seed": 5, "max_steps": 6, "micro_batch_size": 1, "max_grad_norm": 0.1},
    {"lora_r": 5, "seed": 6, "max_steps": 3, "micro_batch_size": 5, "warmup_steps": 2, "adam_beta2": 0.9},
    {"lora_r": 8, "seed": 1, "max_steps": 6, "sample_packing": True, "lr_scheduler": "constant"},
    {"lora_r": 4, "seed": 8, "max_steps": 6, "lora_target_modules": ["down_proj"], "lora_dropout": 0.5},
)
"""Ranks, alphas, targets, rates, schedules, lengths, dropouts, accumulation, seeds and budgets."""
KINDS: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 9, "max_steps": 5, "use_dora": True, "lora_dropout": 0.3},
    {"lora_r": 6, "seed": 10, "use_dora": True, "use_rslora": True, "init_lora_weights": "gaussian"},
    {"lora_r": 4, "seed": 11, "init_lora_weights": "pissa", "lora_dropout": 0.2, "learning_rate": 1e-3},
    {"lora_r": 3, "seed": 12, "max_steps": 4, "init_lora_weights": "pissa_niter_4", "use_rslora": True},
    {"lora_r": 5, "seed": 13, "init_lora_weights": "olora", "gradient_accumulation_steps": 2, "learning_rate": 1e-3},
    {"lora_r": 4, "seed": 14, "loraplus_lr_ratio": 4, "max_grad_norm": 0.1},
    {
        "lora_r": 8,
        "seed": 15,
        "loraplus_lr_ratio": 2,
        "use_dora": True,
        "use_rslora": True,
        "init_lora_weights": "gaussian",
        "lora_target_modules": ["q_proj", "up_proj"],
    },
    {"lora_r": 40, "seed": 16, "adapter": "vera", "lora_dropout": 0.2, "learning_rate": 2e-2},
    {"lora_r": 40, "seed": 17, "adapter": "vera", "max_steps": 4, "learning_rate": 2e-2},
    {"lora_r": 6, "seed": 18, "init_lora_weights": "eva", "use_dora": True, "max_steps": 3},
    {"lora_r": 4, "seed": 19, "init_lora_weights": "eva", "lora_dropout": 0.2, "gradient_accumulation_steps": 2},
    {"lora_r": 6, "seed": 22, "adapter": "adalora", "target_r": 2, "deltaT": 2, "gradient_accumulation_steps": 2},
    {"lora_r": 4, "seed": 23, "adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 2, "lora_dropout": 0.2},
)
"""DoRA with and without dropout, rsLoRA, PiSSA whole and by iterations, OLoRA, LoRA+, some together,
VeRA, EVA and AdaLoRA."""

QUANTIZED: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 20, "init_lora_weights": "loftq", "lora_dropout": 0.2},
    {"lora_r": 5, "seed": 21, "init_lora_weights": "loftq", "use_rslora": True, "max_steps": 4},
)
"""LoftQ, which a plain base has not."""

TWINS: tuple[dict[str, Any], ...] = (
    {**MIXED[0], "learning_rate": 3e-3, "weight_decay": 0.2},
    {**MIXED[7], "learning_rate": 3e-3, "max_steps": 5},
)
"""Rows, ranks, scales and dropouts are those of another member: where they lie side by side they share calls."""


EVERY = (*MIXED, *KINDS, *TWINS)
FEW = (*MIXED[2:5], *MIXED[6:8], *KINDS[::2], TWINS[1])
"""What differs inside of a block: rows and bins, dropouts, kinds of update, twins. Schedules and budgets do not."""
ON_INT8 = (*MIXED[2:4], *KINDS[2:5], *KINDS[6::2], QUANTIZED[0])
"""Every kind once."""
OF_PAIRS: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 1, "rl_beta": 0.5},
    {"lora_r": 8, "seed": 2, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2, "sample_packing": True},
    {"lora_r": 3, "seed": 3, "use_dora": True, "gradient_accumulation_steps": 2, "max_steps": 3},
    {"lora_r": 4, "seed": 4, "init_lora_weights": "pissa", "learning_rate": 1e-3},
)
"""That learn from answers that were judged."""
JUDGED: tuple[dict[str, Any], ...] = (
    *OF_PAIRS,
    {"lora_r": 4, "seed": 5, "init_lora_weights": "gaussian", "use_rslora": True, "loraplus_lr_ratio": 4},
    {"lora_r": 3, "seed": 6, "init_lora_weights": "pissa_niter_4", "learning_rate": 1e-3},
    {"lora_r": 4, "seed": 7, "init_lora_weights": "olora", "learning_rate": 1e-3},
    {"lora_r": 40, "seed": 8, "adapter": "vera", "learning_rate": 2e-2},
    {"lora_r": 4, "seed": 9, "init_lora_weights": "eva"},
    {"lora_r": 4, "seed": 10, "adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 1},
    {"lora_r": 4, "seed": 11, "init_lora_weights": "loftq"},
)
"""The same on a quantized base: a member of every kind."""


class Silent:
    """Hooks that keep events and nothing else."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def wish(self) -> Wish | None:
        return None

    def save(self, checkpoint: Checkpoint) -> str:
        return f"checkpoint of step {checkpoint.step}"

    def fall_back(self, step: int) -> str:
        return ""

    def give_up_beyond(self, step: int) -> None:
        pass


def member_specs(home: Path, members: Sequence[Mapping[str, Any]] = EVERY, **fields: object) -> list[RunSpec]:
    """The mixed members' specifications, with more fields that all of them share."""
    return [tiny_spec(home / "base", home / "rows.jsonl", **{**COMMON, **mixed, **fields}) for mixed in members]


def place_tiny(spec: RunSpec, slots_stay_on_ranks: bool = False) -> Trainee:
    """The base without an adapter."""
    folder = Path(spec.base_model)
    trainee = place_base(spec, folder, BASE_NAME, CPU, slots_stay_on_ranks=slots_stay_on_ranks)
    trainee.train_mode(True)
    return trainee


class Saving(Silent):
    """Hooks that keep checkpoints as well, in a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._store = open_store(str(folder))

    def save(self, checkpoint: Checkpoint) -> str:
        return save_checkpoint(self._store, checkpoint, keep=2)

    def fall_back(self, step: int) -> str:
        return fall_back(self._store, step)

    def give_up_beyond(self, step: int) -> None:
        give_up_beyond(self._store, step)


def admit(
    trainee: Trainee,
    slot: int,
    spec: RunSpec,
    home: Path,
    store: Path | None = None,
    start_from: str | None = None,
    max_tokens: int | None = None,
) -> Member:
    """A member at its start, or where a checkpoint was taken; with a store it can be saved."""
    rows, validation = open_rows(spec, home / "cache")
    trainee.admit(slot, spec)
    hooks = Silent() if store is None else Saving(store)
    member = Member(trainee, slot, spec, rows, validation, hooks, DIGESTS, max_tokens)
    if start_from is not None:
        member.restore(load_checkpoint(start_from))
    return member


def turn(trainee: Trainee, members: Sequence[Member]) -> None:
    """One step and what is due after it; every rank must have members, or all none."""
    running = [member for member in members if member.ending is None]
    for failures in (step_all(trainee, running), validate_all(trainee, running)):
        for error in failures.values():
            raise error


def train_all(trainee: Trainee, members: Sequence[Member]) -> None:
    """Train members to their ends."""
    while any(member.ending is None for member in members):
        turn(trainee, members)


def trained(home: Path, *specs: RunSpec) -> tuple[Trainee, list[Member]]:
    """Runs trained to their ends on one base."""
    trainee = place_tiny(specs[0])
    members = [admit(trainee, slot, spec, home) for slot, spec in enumerate(specs)]
    train_all(trainee, members)
    return trainee, members


def assert_each_is_as_alone(trainee: Trainee, members: Sequence[Member], home: Path) -> None:
    """Members that have ended have the losses and the state, by the bit, that each has alone on a base."""
    alone = place_tiny(members[0].spec)
    for member in members:
        only = admit(alone, 0, member.spec, home)
        train_all(alone, [only])
        assert losses_of(member) == losses_of(only)
        assert_same_bits(state_of(trainee, member), state_of(alone, only))
        alone.release(0)


def state_of(trainee: Trainee, member: Member) -> dict[str, Tensor]:
    """Adapter and moments of a member, and which of its ranks are left."""
    adapter, allocation = trainee.bank.export(member.slot).tensors, trainee.allocations.get(member.slot)
    states = [trainee.steppers[member.slot].state(), allocation.state() if allocation else ()]
    return adapter | {name: tensor.clone() for name, tensor in chain.from_iterable(states)}


def losses_of(member: Member, names: Sequence[str] = ("train_loss", "eval_loss", "grad_norm")) -> list[float]:
    """All that it told of these, in order."""
    return [event.values[name] for event in events_of(member) for name in names if name in event.values]


def events_of(member: Member, kind: EventKind | None = None) -> list[Event]:
    """What it told, of one kind or of all."""
    hooks = member._hooks
    assert isinstance(hooks, Silent)
    return [event for event in hooks.events if kind in (None, event.kind)]


def assert_same_bits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Equal by the bit, what is not a number included."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name].view(torch.int32), tensor.view(torch.int32)), name
