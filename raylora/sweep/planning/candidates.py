"""The trials to plan a sweep for, before a searcher has drawn any: a grid's own, the corners of any other space.

A sweep enters; groups of trials that can share a pack leave, each with the largest runs that it may hold. Called by
`plan`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylora.spec.fields.knobs import AnyKnob, Choice, Ratio, ends
from raylora.spec.packing import pack_key, why_alone
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.corners import corners
from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.space_shape import fields_of
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec

SIZELESS = {
    "lora_alpha",
    "learning_rate",
    "lr_scheduler",
    "warmup_steps",
    "warmup_ratio",
    "decay_ratio",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "d_initial",
    "target_r",
    "tinit",
    "tfinal",
    "deltaT",
    "orth_reg_weight",
    "rl_beta",
}
"""Fields that change neither which trials go together, nor how long a step takes or what it holds."""

KIND = ("adapter", "optimizer", "galore_rank", "use_dora", "use_rslora", "init_lora_weights", "peft")
"""Fields that say what an adapter is, and what its moments take, beside its rank; they belong together."""

PROJECTION = ("projection_prng_key", "lora_r", "lora_target_modules")
"""Fields that say which random matrices an adapter of VeRA has; those with the same share them."""


@dataclass(frozen=True)
class Candidates:
    """Trials that can share a pack, or run alone for one reason.

    Args:
        by_kind: For each adapter kind among them, a run that needs as much as any if it is of that kind.
        num_trials: How many; where they are drawn, how many to expect.
        why_alone: Why they share nothing; None where they do.
        num_projections: Different random matrices that VeRA may have among them, at least 1.
    """

    by_kind: tuple[RunSpec, ...]
    num_trials: int
    why_alone: str | None
    num_projections: int = 1


def candidates(sweep: SweepSpec, num_values: Callable[[RunSpec], int]) -> list[Candidates]:
    """Group the trials of a sweep.

    Args:
        sweep: The sweep.
        num_values: Trainable values of a run's adapter; asked for each adapter of a group.

    Returns:
        Groups in the order of the space; at least one.
    """
    is_grid = sweep.searcher == "grid"
    specs = [trial_spec(sweep, drawn) for drawn in (_grid(sweep) if is_grid else _corners(sweep.space))]
    groups: dict[tuple[str, str | None], list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault((pack_key(spec), why_alone(spec)), []).append(spec)
    num_trials = sweep.num_configurations * sweep.repeats
    found = []
    for (_, reason), of_group in groups.items():
        num_mine = max(1, round(num_trials * len(of_group) / len(specs)))
        num_projections = num_mine if not is_grid and _draws(sweep.space, PROJECTION) else _num_projections(of_group)
        found.append(Candidates(_by_kind(of_group, num_values), num_mine, reason, num_projections))
    return found


def _grid(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    return itertools.islice(configurations(sweep.space), sweep.num_configurations)


def _corners(space: Mapping[str, AnyKnob]) -> Iterator[dict[str, Any]]:
    """Combinations of choices and of the ends of ranges, of the knobs that count; the others keep one value."""
    counting = _counting(space)
    values = {
        name: [value for _, value in ends(knob)][: None if name in counting else 1]
        for name, knob in space.items()
        if not isinstance(knob, Ratio)
    }
    return (sampled for sampled, _ in corners(values, counting))


def _counting(space: Mapping[str, AnyKnob]) -> list[str]:
    """Knobs that set a field which counts, and those that their conditions and multiples name."""
    found = [name for name, knob in space.items() if not SIZELESS.issuperset(fields_of(name, knob))]
    for name in found:  # grows while it is walked
        knob = space[name]
        others = [*knob.when, *([knob.of] if isinstance(knob, Ratio) else [])]
        found += [other for other in others if other not in found]
    return [name for name in space if name in found and not isinstance(space[name], Ratio)]


def _draws(space: Mapping[str, AnyKnob], fields: Collection[str]) -> bool:
    """Whether any of some fields may get more values than are known: its knob is no choice."""
    return any(
        not isinstance(knob, Choice) and not set(fields).isdisjoint(fields_of(name, knob))
        for name, knob in space.items()
    )


def _num_projections(specs: Sequence[RunSpec]) -> int:
    return max(
        1, len({tuple(str(getattr(spec, name)) for name in PROJECTION) for spec in specs if spec.adapter == "vera"})
    )


def _by_kind(specs: Sequence[RunSpec], num_values: Callable[[RunSpec], int]) -> tuple[RunSpec, ...]:
    """The largest run in each kind that there is: which of them holds most, an estimate must tell."""
    largest = _largest(specs)
    kinds = [{name: getattr(spec, name) for name in KIND} for spec in specs]
    distinct = [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    widest = {
        adapter: _widest([spec for spec in specs if spec.adapter == adapter], num_values)
        for adapter in {spec.adapter for spec in specs}  # VeRA's ranks are others than LoRA's
    }
    return tuple(largest.model_copy(update=kind | widest[kind["adapter"]]) for kind in distinct)


def _widest(specs: Sequence[RunSpec], num_values: Callable[[RunSpec], int]) -> dict[str, Any]:
    """Rank and targets of the run that trains most."""
    # All of one kind, of which the others are `by_kind`: else a narrower DoRA would pass for more than a wider LoRA.
    dora = {"use_dora": any(spec.use_dora for spec in specs)}
    adapters = {
        (spec.lora_r, str(spec.lora_target_modules), str(spec.peft)): spec.model_copy(update=dora) for spec in specs
    }
    adapter = max(adapters.values(), key=num_values)
    return {"lora_r": adapter.lora_r, "lora_target_modules": adapter.lora_target_modules}


def _largest(specs: Sequence[RunSpec]) -> RunSpec:
    """Put the largest of every other field that counts into one run, whether or not a trial has them all."""
    rows_at_once = max(spec.micro_batch_size for spec in specs)
    num_workers = specs[0].distributed.num_workers
    num_rows = max(spec.rows_per_step for spec in specs)
    steps = [spec.max_steps for spec in specs]
    return specs[0].model_copy(
        update={
            "lora_dropout": max(spec.lora_dropout for spec in specs),
            "micro_batch_size": rows_at_once,
            "gradient_accumulation_steps": -(-num_rows // (rows_at_once * num_workers)),
            "sample_packing": any(spec.sample_packing for spec in specs),
            "max_steps": None if None in steps else max(step for step in steps if step is not None),
            "num_epochs": max(spec.num_epochs for spec in specs),
        }
    )
