"""Sweeps of the command that are small enough for a test, what comes of them, and what they leave in the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from raylora.spec.fields.knobs import Ratio
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.load import load_sweep
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.store.blob import Store, open_store
from raylora.store.manifest import MANIFEST
from raylora.store.sweeps import TUNE_FOLDER, SweepRecord, list_sweeps
from tests.cluster.command import Command, Ended
from tests.cluster.undisturbed import adapter_bits, client

PLAN = ("sweep", "grid.yaml", "--plan", "--json", "--set", "slots=1", "--set", "budget.steps=2")
"""Four trials; a pack is one worker of two cores."""


def write(folder: Path, name: str, sweep: dict[str, Any]) -> str:
    """Write a sweep's file; returns its name."""
    (folder / name).write_text(yaml.safe_dump(sweep))
    return name


def whole(ended: Ended) -> dict[str, Any]:
    """The result of a sweep that came to its end."""
    assert ended.code == 0, ended.out[-2000:] + ended.err[-3000:]
    return ended.json


def only_group(plan: dict[str, Any]) -> dict[str, Any]:
    """Of a plan, the trials that share packs."""
    (group,) = plan["groups"]
    assert isinstance(group, dict)
    return group


def the_record(command: Command) -> SweepRecord:
    """The only sweep in the command's home."""
    (record,) = list_sweeps(open_store(str(command.home / "store")))
    return record


def loaded(folder: Path, name: str, overrides: Sequence[str] = ()) -> SweepSpec:
    return load_sweep(folder / name, overrides).spec


def ends(result: dict[str, Any]) -> list[tuple[str, str, int, float | None]]:
    """How each trial ended."""
    return [(trial["trial_id"], trial["status"], trial["steps"], trial["metric"]) for trial in result["trials"]]


def same_ends(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Assert that all trials ended alike: with the same losses, and adapters of the same bits."""
    assert ends(found) == ends(wanted), f"{ends(found)} instead of {ends(wanted)}"
    for one, other in zip(found["trials"], wanted["trials"], strict=True):
        assert (one["adapter_uri"] is None) == (other["adapter_uri"] is None) == (one["status"] != "succeeded")
        if one["adapter_uri"] is not None:
            assert adapter_bits(one) == adapter_bits(other), one["trial_id"]


def same_curves(found: SweepRecord, wanted: SweepRecord) -> None:
    """Assert that the trials had the losses of those before, step by step as far as those went, to 1e-4."""
    for one, other in zip(found.trials, wanted.trials, strict=False):
        assert one.config == other.config
        losses = {point.step: (point.train_loss, point.eval_loss) for point in one.curve}
        for point in other.curve:
            assert losses[point.step] == pytest.approx((point.train_loss, point.eval_loss), abs=1e-4), one.trial_id


def each_step_told_once(command: Command, result: dict[str, Any]) -> None:
    """Assert that MLflow has one run for the sweep and one for each trial, and in these each step once."""
    told_once(client(command), "raylora", result)


def told_once(mlflow: MlflowClient, experiment: str, result: dict[str, Any]) -> None:
    """Assert the same of an experiment that the sweep has to itself."""
    (found,) = [each for each in mlflow.search_experiments() if each.name == experiment]
    runs = {run.info.run_id for run in mlflow.search_runs([found.experiment_id])}
    assert runs == {result["mlflow_run_id"], *(trial["mlflow_run_id"] for trial in result["trials"])}
    for trial in result["trials"]:
        steps = [point.step for point in mlflow.get_metric_history(trial["mlflow_run_id"], "train_loss")]
        assert steps == list(range(1, trial["steps"] + 1)), f"{trial['trial_id']}: {steps}"


def num_saved(store: Store, since: int) -> int:
    """Trials that have a checkpoint of a step or a later one.

    Args:
        store: Of all runs.
        since: The step. At the turn after a save, the desk has heard of an earlier one.
    """
    saves = [key.split("/")[1:4] for key in store.keys("runs") if key.endswith(f"/{MANIFEST}") and "/step-" in key]
    return len({run for run, _, step in saves if int(step.removeprefix("step-")) >= since})


def ended_by_tune(command: Command) -> list[int]:
    """Numbers of the trials that are over by what Ray Tune has kept of the only sweep in the command's home."""
    kept = command.home / "store" / "sweeps" / the_record(command).sweep_id / TUNE_FOLDER
    states = sorted(kept.glob("experiment_state-*.json"))
    kept_trials = json.loads(states[-1].read_text())["trial_data"] if states else []
    trials = [json.loads(trial) for trial, _ in kept_trials]
    # Their order is that of a set; Tune's names end with the number.
    return [int(trial["trial_id"][-5:]) for trial in trials if trial["status"] in ("TERMINATED", "ERROR")]


def run_of(sweep: SweepSpec, trial: dict[str, Any]) -> RunSpec:
    """The run that a trial of a result was."""
    ratios = [name for name, knob in sweep.space.items() if isinstance(knob, Ratio)]
    return trial_spec(sweep, {name: value for name, value in trial["config"].items() if name not in ratios})


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths of the configurations are relative to it."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture(scope="module")
def undisturbed(whole_grid: tuple[Command, Ended]) -> dict[str, Any]:
    """What the grid came to that was left alone."""
    return whole(whole_grid[1])
