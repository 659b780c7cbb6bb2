"""A sweep planned before anything starts: packs, slots, where the slots live, memory, predicted time.

A sweep, what there is to run it on and the bases' configs enter; a plan leaves. Trials are drawn later, so every group
is planned for the largest run that it may hold. Called by `raylora sweep`, which starts what the plan says, and by
``--plan``, which prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from raylora.data.prepare import prepare
from raylora.model.base.load import base_on_meta
from raylora.model.rows.own_dropout import own_dropout
from raylora.model.rows.row_attention import attend_by_rows
from raylora.model.source.source import base_config, resolve_base
from raylora.model.targets import adapter_values
from raylora.runtime.cluster.cluster import worker_resources
from raylora.spec.packing import pack_key
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.before_start import before_start
from raylora.store.home import cache_dir
from raylora.sweep.planning.candidates import Candidates, candidates
from raylora.sweep.planning.duration import Duration, Rows, makespan_s, predict_duration, start_up_s
from raylora.sweep.planning.offer import Offer
from raylora.sweep.planning.probe import offer_for
from raylora.sweep.planning.shares import ROUNDING, share_out
from raylora.sweep.planning.width import Width, choose_width, held_bytes, usable_bytes
from raylora.sweep.steering.draws import draws_at_once
from raylora.train.prediction.estimate import Estimate, estimate_pack
from raylora.train.prediction.pack_memory import PackMemory, SlotBytes

ConfigOf = Callable[[RunSpec], PretrainedConfig]
"""Finds the config of a run's base."""


@dataclass(frozen=True)
class Group:
    """Trials that can share a pack, and the packs that they share.

    Args:
        largest: A run that needs as much as any of them; what they share (base, placement) is in it.
        num_trials: How many, repeats counted; where they are drawn, how many to expect.
        num_packs: Packs that run at once, or trials where they run alone.
        num_places: Workers like theirs that there is room for, if nothing else runs; fewer than a pack has, and it
            waits for a cluster that grows, or cannot be.
        width: Slots of each pack, where they live, and why.
        why_alone: Why the trials share nothing; None where they do.
        memory: Predicted for a worker with all its slots filled.
        slot: What one slot adds between steps.
        bytes_per_worker: What a worker may hold beside its process.
        duration: Predicted; None where this machine cannot tell, which `why_no_duration` explains.
        why_no_duration: None where there is one.
    """

    largest: RunSpec
    num_trials: int
    num_packs: int
    num_places: int
    width: Width
    why_alone: str | None
    memory: Estimate
    slot: SlotBytes
    bytes_per_worker: int
    duration: Duration | None
    why_no_duration: str | None

    @property
    def key(self) -> str:
        """What is equal for its trials."""
        return pack_key(self.largest)

    @property
    def held_bytes(self) -> int:
        """The most that a worker will hold beside its process."""
        return held_bytes(self.largest, self.memory)

    @property
    def fits(self) -> bool:
        """Whether a worker has the memory that it will hold."""
        return self.held_bytes <= self.bytes_per_worker

    def to_json(self) -> dict[str, Any]:
        """The group as plain values."""
        return {
            "key": self.key,
            "num_trials": self.num_trials,
            "num_packs": self.num_packs,
            "num_places": self.num_places,
            **asdict(self.width),
            "why_alone": self.why_alone,
            "fits": self.fits,
            "held_bytes": self.held_bytes,
            "bytes_per_worker": self.bytes_per_worker,
            "slot_bytes": asdict(self.slot) | {"num_bytes": self.slot.num_bytes},
            "memory": self.memory.to_json(),
            "predicted": None if self.duration is None else asdict(self.duration) | {"seconds": self.duration.seconds},
            "why_not_predicted": self.why_no_duration,
        }


@dataclass(frozen=True)
class Plan:
    """A planned sweep.

    Args:
        groups: In the order in which they start.
        predicted_s: Seconds of the whole sweep without early stops; None where a group's are not known.
        takes_turns: Whether there is no room for all groups at once.
    """

    groups: tuple[Group, ...]
    predicted_s: float | None
    takes_turns: bool

    @property
    def num_packs(self) -> int:
        """Packs of all groups that share; those of groups that take turns are not there at once."""
        return sum(group.num_packs for group in self.groups if group.why_alone is None)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "num_packs": self.num_packs,
            "predicted_s": self.predicted_s,
            "takes_turns": self.takes_turns,
            "groups": [group.to_json() for group in self.groups],
        }


def plan_sweep(
    sweep: SweepSpec, offer: Offer, config_of: ConfigOf, rows: Rows | None = None, foretells: bool = True
) -> Plan:
    """Plan a sweep.

    Args:
        sweep: The sweep.
        offer: What there is to run it on.
        config_of: Finds the config of a run's base, such as `base_config`.
        rows: Of the data; without them every row counts as full, and epochs have no length.
        foretells: Whether to predict seconds, which takes some.

    Raises:
        ModelError: A base is none, or the targets match nothing.
    """
    models: dict[str, PreTrainedModel] = {}

    def num_values(spec: RunSpec) -> int:
        key = pack_key(spec)
        if key not in models:
            models[key] = _on_meta(spec, config_of(spec))
        return adapter_values(models[key], spec)

    found = candidates(sweep, num_values)
    gangs = [
        max(1, offer.num_workers(worker_resources(each.by_kind[0], offer.has_gpus)) // _ranks(each)) for each in found
    ]
    limit = draws_at_once(sweep)
    at_once = [min(limit, math.ceil(each.num_trials / sweep.repeats)) for each in found]
    shared = share_out(at_once, gangs)
    groups = tuple(
        _group(sweep, *each, offer, config_of(each[0].by_kind[0]), rows, foretells)
        for each in zip(found, at_once, shared, strict=True)
    )
    parts = [
        (group.duration.seconds, group.num_packs / most)
        for group, most in zip(groups, gangs, strict=True)
        if group.duration is not None
    ]
    used = sum(group.num_packs / most for group, most in zip(groups, gangs, strict=True))
    return Plan(groups, makespan_s(parts) if len(parts) == len(groups) else None, used > 1 + ROUNDING)


def plan_ahead(sweep: SweepSpec) -> Plan:
    """Plan a sweep for where it would run, with the lengths of its rows; times are this machine's.

    Args:
        sweep: The sweep.

    Raises:
        InputError: No cluster answers at `ray.address`.
        ModelError: A base is none, or the targets match nothing.
        DataError: A dataset cannot be used.
    """
    with before_start():
        base = resolve_base(sweep.run, cache_dir())
        prepared = prepare(sweep.run, base.path, cache_dir())
    train, validation = prepared.train, prepared.validation
    rows = Rows(len(train), float(train.lengths.mean()))
    if validation is not None:
        rows = replace(
            rows, num_validation_rows=len(validation), mean_validation_tokens=float(validation.lengths.mean())
        )
    return plan_sweep(sweep, offer_for(sweep.run), base_config, rows)


def _group(
    sweep: SweepSpec,
    found: Candidates,
    at_once: int,
    num_packs: int,
    offer: Offer,
    config: PretrainedConfig,
    rows: Rows | None,
    foretells: bool,
) -> Group:
    needed = worker_resources(found.by_kind[0], offer.has_gpus)
    device = "cuda" if needed.get("GPU") else "cpu"
    predict = partial(estimate_pack, config=config, device=device)
    kinds = [(spec, PackMemory(spec, predict, found.num_projections)) for spec in found.by_kind]
    spec, memory = max(kinds, key=lambda kind: held_bytes(kind[0], kind[1].at(1)))

    is_known = device == "cpu" or offer.num_workers(needed) > 0

    def room(packs: int) -> int:
        if not is_known:
            return held_bytes(spec, memory.at(sweep.slots or sweep.repeats))
        return usable_bytes(offer.bytes_per_worker(needed, packs * _ranks(found)), device)

    # Packs beside one another share a node's memory: rather fewer of them than none that fits.
    while num_packs > 1 and held_bytes(spec, memory.at(1)) > room(num_packs):
        num_packs -= 1
    why_alone = found.why_alone or _why_one_adapter(spec, config)
    wanted = 1 if why_alone else sweep.repeats * (math.ceil(at_once / num_packs) if is_known or sweep.slots else 1)
    why_wanted = why_alone or _why_no_more(sweep, found.num_trials, at_once * sweep.repeats, num_packs)
    if not is_known:
        why_wanted = "no node with a GPU is there yet, so its memory is not known; set slots for more"
    width = choose_width(spec, memory, room(num_packs), wanted, sweep.slots, why_wanted)
    duration: Duration | str = f"a {device} is elsewhere, and steps are timed on this machine"
    if not foretells:
        duration = "nobody asked"
    elif device == "cpu" or torch.cuda.is_available():
        start_s, starts_each = start_up_s(memory.at(1).base_parameters), why_alone is not None
        duration = predict_duration(
            sweep, spec, found.num_trials, num_packs, width, config, rows, device, start_s, starts_each
        )
    return Group(
        largest=spec,
        num_trials=found.num_trials,
        num_packs=num_packs,
        num_places=offer.num_workers(needed),
        width=width,
        why_alone=why_alone,
        memory=memory.at(width.slots_per_rank),
        slot=memory.slot,
        bytes_per_worker=room(num_packs),
        duration=duration if isinstance(duration, Duration) else None,
        why_no_duration=duration if isinstance(duration, str) else None,
    )


def _why_no_more(sweep: SweepSpec, num_trials: int, num_at_once: int, num_packs: int) -> str:
    """Why there are no more trials for each pack of a group; repeats are counted."""
    packs = f"are shared out over {num_packs} packs"
    if num_at_once < num_trials:
        found = (
            f"{sweep.searcher} draws by what was reported before, so no more than {num_at_once} of the {num_trials} "
            "trials are drawn before one is over; set slots for more"
        )
        return found if num_packs == 1 else f"{found}. They {packs}"
    return "the sweep has no more" if num_packs == 1 else f"the {num_trials} trials {packs}"


def _ranks(found: Candidates) -> int:
    return found.by_kind[0].distributed.num_workers


def _why_one_adapter(spec: RunSpec, config: PretrainedConfig) -> str | None:
    """Why a base takes the rows of one adapter at a time; None where it takes those of many."""
    reason = attend_by_rows(_on_meta(spec, config), spec.sequence_len) or own_dropout(config)
    return None if reason is None else f"base_model: {reason}, so its rows cannot lie beside those of another adapter"


def _on_meta(spec: RunSpec, config: PretrainedConfig) -> PreTrainedModel:
    return base_on_meta(config, spec, torch.float32)
