"""What the driver notes of what happens to trials, on real books: a draw that makes no run, and repeats of two ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.contract import Store
from raylora.sweep.launch import _Launch
from raylora.sweep.result import sweep_result
from raylora.sweep.steering.drive import TrialOutcome
from raylora.sweep.steering.watch import TrialEvent
from tests.unit.sweep.planted_sweep import new_record, open_books

pytestmark = pytest.mark.slow


def opened(store: Store, folder: Path, **fields: Any) -> _Launch:
    """The driver of a sweep over micro-batches of a step of four rows, its books open."""
    run = {"base_model": "m", "datasets": [{"path": "d.jsonl"}], "val_set_size": 4}
    run |= {"micro_batch_size": 1, "gradient_accumulation_steps": 4}
    run |= {"tracking": {"experiment": "notes", "system_metrics": False}}
    space = {"micro_batch_size": {"int": [1, 4]}}
    spec = SweepSpec.model_validate({"run": run, "space": space, "num_trials": 4, "budget": {"steps": 6}} | fields)
    record = new_record(spec)
    launch = _Launch(spec, record, lambda standing: None)
    launch._books, _ = open_books(store, spec, record, folder / "spool")
    return launch


def repeat(run_id: str, step: int, finished: bool) -> dict[str, Any]:
    return {"run_id": run_id, "step": step, "finished": finished, "eval_loss": 1.0, "num_tokens": 8 * step}


def test_a_draw_that_makes_no_run_fails_alone(client: MlflowClient, store: Store, tmp_path: Path):
    launch = opened(store, tmp_path)
    why = "trial 0: 3 does not divide the rows"
    (good,) = launch._trials.run_ids(1)
    launch._note(TrialEvent("start", 0, {"micro_batch_size": 3}))
    launch._note(TrialEvent("end", 0, {"micro_batch_size": 3}, error=why))
    launch._note(TrialEvent("start", 1, {"micro_batch_size": 2}))
    result = {"repeats": [repeat(good, 6, True)]}
    launch._note(TrialEvent("report", 1, {"micro_batch_size": 2}, result, stopped=True))
    outcomes = [
        TrialOutcome(0, {"micro_batch_size": 3}, "failed", {}, why),
        TrialOutcome(1, {"micro_batch_size": 2}, "succeeded", result, None),
    ]
    launch._settle(outcomes, was_cut=False)
    told = sweep_result(launch._told().close("finished"))
    assert [(each["status"], each["error"], each["config"]) for each in told["trials"]] == [
        ("failed", why, {"micro_batch_size": 3}),
        ("succeeded", None, {"micro_batch_size": 2}),
    ]
    assert told["best_trial"] == "t001"
    run = client.get_run(told["trials"][0]["mlflow_run_id"])
    assert (run.info.status, run.data.params["micro_batch_size"]) == ("FAILED", "3")


def test_a_repeat_that_was_through_is_not_told_as_stopped(client: MlflowClient, store: Store, tmp_path: Path):
    launch = opened(store, tmp_path, repeats=2)
    first, second = launch._trials.run_ids(0)
    launch._note(TrialEvent("start", 0, {"micro_batch_size": 1}))
    result = {"repeats": [repeat(first, 4, True), repeat(second, 6, False)]}
    launch._note(TrialEvent("report", 0, {"micro_batch_size": 1}, result, stopped=True))
    launch._settle([TrialOutcome(0, {"micro_batch_size": 1}, "stopped", result, None)], was_cut=False)
    assert [trial.status for trial in launch._told().close("finished").trials] == ["succeeded", "stopped"]
