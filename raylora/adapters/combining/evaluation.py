"""How good adapters are on the validation rows of the runs they come from: where one harms another's task, it shows.

A base, runs and adapters enter; mean losses leave. The base is loaded once, whole, in this process. Called by the
command `combine`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raylora.adapters.delta import Layers
from raylora.adapters.slots import in_one_slot
from raylora.data.batches import Batches, open_batches
from raylora.data.prepare import prepare
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.errors import DataError, InputError, together
from raylora.model.source.source import BaseFolder
from raylora.objectives.choose import objective_of
from raylora.objectives.objective import Objective
from raylora.spec.fields.data import DataFields
from raylora.spec.fields.holding import FIELDS
from raylora.spec.fields.place import DistributedSpec
from raylora.spec.run import RunSpec
from raylora.train.build import place_base
from raylora.train.evaluate import evaluate
from raylora.train.prediction.estimate import device_of

SLOT = 0
HOW_ONLY = {"split_seed", "sample_packing", "dataset_num_proc"}
"""Fields of the data that leave the validation rows, but for their split, what they are."""

Listener = Callable[[int, int], None]
"""Told how many evaluations are done, and of how many."""


@dataclass(frozen=True)
class Losses:
    """What one adapter comes to.

    Args:
        adapter: Its name.
        losses: What each run minimised, over its validation rows, by the name of the run; ``None`` where it has none.
    """

    adapter: str
    losses: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class _Task:
    """What adapters are tried on.

    Args:
        rows: Validation rows of a run.
        spec: Of the run, which says what it minimised.
    """

    rows: Batches
    spec: RunSpec


def evaluate_adapters(
    base: BaseFolder,
    cache: Path,
    runs: Mapping[str, RunSpec],
    adapters: Sequence[tuple[str, Layers]],
    holding: str,
    listen: Listener = lambda done, total: None,
) -> list[Losses]:
    """Evaluate adapters on the validation rows of some runs, by what each run minimised.

    Args:
        base: What all of them were trained on.
        cache: Folder that keeps tokens and downloads.
        runs: By the names of their validation rows; at least one.
        adapters: Names and layers, LoRA alone; without layers it is the base.
        holding: How the base is held, a key of `raylora.spec.fields.holding.FIELDS`.
        listen: Told how far it is.

    Returns:
        In the order of the adapters.

    Raises:
        DataError: Rows of a run cannot be read: all problems at once.
        ModelError: The base cannot be loaded.
        StoreError: The cache cannot be written.
    """
    tasks = _tasks(base, cache, runs)
    several = list(dict.fromkeys(task for task in tasks.values() if task is not None))
    if not several:
        return [Losses(name, dict.fromkeys(tasks)) for name, _ in adapters]
    specs = [_alone(task.spec, runs.values(), holding) for task in several]
    placed = place_base(specs[0], base.path, (base.name, base.revision), torch.device(device_of(specs[0].distributed)))
    # What passes an evaluation takes, as those of a reference, is asked of the trainee's own configuration.
    asked = [replace(placed, spec=spec, objectives={SLOT: objective_of(spec)}) for spec in specs]
    found: list[Losses] = []
    for name, layers in adapters:
        settings, tensors = in_one_slot(layers)
        placed.bank.admit(SLOT, settings, list(layers))
        placed.bank.load(SLOT, tensors)
        losses: dict[_Task | None, float] = {}
        for task, trainee in zip(several, asked, strict=True):
            losses[task] = evaluate(trainee, {SLOT: task.rows})[SLOT].loss
            listen(len(found) * len(several) + len(losses), len(adapters) * len(several))
        placed.bank.release(SLOT)
        found.append(Losses(name, {run: losses.get(task) for run, task in tasks.items()}))
    return found


def _alone(spec: RunSpec, specs: Collection[RunSpec], holding: str) -> RunSpec:
    """A run in this process alone, over a base for rows as long as any run has."""
    longest = max(each.sequence_len for each in specs)
    alone = {"distributed": DistributedSpec(), "adapter_bank": "packed", "peft": None, "sequence_len": longest}
    held = {"load_in_4bit": False, "load_in_8bit": False, **FIELDS[holding]}
    return spec.model_copy(update=alone | held)


def _tasks(base: BaseFolder, cache: Path, runs: Mapping[str, RunSpec]) -> dict[str, _Task | None]:
    """By name of the run, ``None`` where it has no validation rows; alike runs, as repeats of a trial, have one."""
    found: dict[str, _Task | None] = {}
    opened: dict[tuple[str, Objective], _Task | None] = {}
    errors: list[InputError] = []
    for name, spec in runs.items():
        key = _key(spec), objective_of(spec)
        try:
            if key not in opened:
                opened[key] = _open(base, cache, spec)
            found[name] = opened[key]
        except DataError as error:
            errors.append(error)
    if errors:
        raise together(errors)
    return found


def _key(spec: RunSpec) -> str:
    """Runs with equal keys have the same validation rows."""
    asked = spec.model_dump(mode="json", include=set(DataFields.model_fields) - HOW_ONLY)
    return json.dumps([spec.seed_of_split if spec.val_set_size else None, asked], sort_keys=True)


def _open(base: BaseFolder, cache: Path, spec: RunSpec) -> _Task | None:
    if not spec.validates:
        return None
    rows = prepare(spec, base.path, cache).validation
    if rows is None:
        return None
    # Each row by itself: its loss is the same, and no base has to keep rows of a bin apart.
    tokenizer = load_tokenizer(base.path, spec.chat_template)
    alone = open_batches(spec.model_copy(update={"sample_packing": False}), tokenizer, rows)
    return _Task(alone, spec)
