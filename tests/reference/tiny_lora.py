"""Runs of LoRA that a reference is held against: their settings, steps and results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.trainee import Trainee
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, solo_step, tiny_spec

RATES = [0.0, 4e-3, 5e-3, 4e-3, 4e-3, 3e-3, 2e-3, 2e-3, 1e-3, 1e-3]
NF4 = {"load_in_4bit": True}
INT8 = {"load_in_8bit": True}
SETTINGS = {"gradient_accumulation_steps": 2, "max_grad_norm": 1.4, "weight_decay": 0.05}
ADAMW = functools.partial(torch.optim.AdamW, lr=0.0, weight_decay=0.05)


def spec_of(home: Path, **fields: object) -> RunSpec:
    return tiny_spec(home / "base", home / "rows.jsonl", **{**SETTINGS, **fields})


def ours(
    spec: RunSpec, home: Path, optimizer: object = None, times: float = 1, rates: Sequence[float] = RATES
) -> tuple[Adapter, list[float], list[float], Trainee]:
    """The adapter at the start, and losses and norms of a run."""
    trainee = begun(spec, home)
    if optimizer is not None:
        parameters = trainee.bank.parameters(0)
        one_rate = dict.fromkeys(parameters, 1.0)
        trainee.steppers[0] = trainee.strategy.stepper(parameters, optimizer, spec.max_grad_norm, one_rate)
    return trainee.bank.export(0), *ran(trainee, spec, home, [times * rate for rate in rates]), trainee


def begun(spec: RunSpec, home: Path) -> Trainee:
    """A run before its first step."""
    return build(spec, home / "base", BASE_NAME, CPU)


def ran(trainee: Trainee, spec: RunSpec, home: Path, rates: Sequence[float] = RATES) -> tuple[list[float], list[float]]:
    """Losses and norms of a run's first steps."""
    rows, _ = open_rows(spec, home / "cache")
    results = [solo_step(trainee, rows.step(step, 0, 1), step, rate) for step, rate in enumerate(rates)]
    return [r.loss for r in results], [r.grad_norm for r in results]


def steps_of(spec: RunSpec, home: Path) -> list[list]:
    rows, _ = open_rows(spec, home / "cache")
    return [rows.step(step, 0, 1) for step in range(len(RATES))]
