"""How good adapters are on the validation rows of the runs they come from: where one harms another's task, it shows.

A base, runs and adapters enter; mean losses leave. The base is loaded once, whole, in this process. Called by the
command `combine`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from raylora.train.trainee import Trainee

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
        losses: Mean loss over all labelled tokens, in nats, by the name of the run whose validation rows they are;
            ``None`` where that run has none.
    """

    adapter: str
    losses: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class _Task:
    """What adapters are tried on.

    Args:
        rows: Validation rows of a run.
        objective: What it minimised.
    """

    rows: Batches
    objective: Objective


def evaluate_adapters(
    base: BaseFolder,
    cache: Path,
    runs: Mapping[str, RunSpec],
    adapters: Sequence[tuple[str, Layers]],
    holding: str,
    listen: Listener = lambda done, total: None,
) -> list[Losses]:
    """Evaluate adapters on the validation rows of some runs.

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
        InputError: The runs minimised different objectives.
        DataError: Rows of a run cannot be read: all problems at once.
        ModelError: The base cannot be loaded.
        StoreError: The cache cannot be written.
    """
    if len(learned := {spec.rl for spec in runs.values()}) > 1:
        kinds = ", ".join(sorted(str(rl or "supervised fine-tuning") for rl in learned))
        raise InputError(f"--evaluate: the runs learned by {kinds}, whose losses are not alike; say --no-evaluate")
    tasks = _tasks(base, cache, runs)
    several = list(dict.fromkeys(task for task in tasks.values() if task is not None))
    if not several:
        return [Losses(name, dict.fromkeys(tasks)) for name, _ in adapters]
    trainee = _placed(base, list(runs.values()), holding)
    found: list[Losses] = []
    for name, layers in adapters:
        settings, tensors = in_one_slot(layers)
        trainee.bank.admit(SLOT, settings, list(layers))
        trainee.bank.load(SLOT, tensors)
        losses: dict[_Task | None, float] = {}
        for task in several:
            trainee.objectives[SLOT] = task.objective
            losses[task] = evaluate(trainee, {SLOT: task.rows})[SLOT].loss
            listen(len(found) * len(several) + len(losses), len(adapters) * len(several))
        trainee.bank.release(SLOT)
        found.append(Losses(name, {run: losses.get(task) for run, task in tasks.items()}))
    return found


def _placed(base: BaseFolder, specs: Sequence[RunSpec], holding: str) -> Trainee:
    """The base in this process alone, for rows as long as any run has."""
    longest = max(spec.sequence_len for spec in specs)
    alone = {"distributed": DistributedSpec(), "adapter_bank": "packed", "sequence_len": longest}
    held = {"load_in_4bit": False, "load_in_8bit": False, **FIELDS[holding]}
    spec = specs[0].model_copy(update=alone | held)
    return place_base(spec, base.path, (base.name, base.revision), torch.device(device_of(spec.distributed)))


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
    return _Task(alone, objective_of(spec))
