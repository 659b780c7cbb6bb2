"""`raylora sweep` from its file to its result: packs of real workers, Ray Tune over their slots, MLflow, the store."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from raylora.spec.reading.load import load_spec
from raylora.spec.sweeps.space import resolve
from tests.cluster.alone import curves_alone, loss_alone, trained_alone
from tests.cluster.command import Command, Ended, overrides
from tests.cluster.conftest import ALONE_ON_ITS_RANK, ASHA, GRID, SWEPT
from tests.cluster.made_sweeps import in_workplace, loaded, run_of, same_curves, the_record, whole, write
from tests.cluster.plain_tune import told_again
from tests.cluster.undisturbed import client
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PROMISED = {
    *("sweep_id", "best_trial", "best_config", "best_metric", "num_trials", "num_packs", "trials", "wall_s", "tokens"),
}
PICTURES = ("curves", "parallel", "effects", "sizes")
OF_EACH_TRIAL = {"trial_id", "config", "metric", "steps", "status", "adapter_uri", "mlflow_run_id"}


@pytest.fixture(scope="module")
def command(whole_asha: tuple[Command, Ended]) -> Command:
    return whole_asha[0]


@pytest.fixture(scope="module")
def ended(whole_asha: tuple[Command, Ended]) -> Ended:
    return whole_asha[1]


@pytest.fixture(scope="module")
def result(ended: Ended) -> dict[str, Any]:
    return whole(ended)


@pytest.fixture(scope="module")
def succeeded(result: dict[str, Any]) -> list[dict[str, Any]]:
    found = [trial for trial in result["trials"] if trial["status"] == "succeeded"]
    assert found
    return found


def test_the_result_has_what_was_promised(result: dict[str, Any], ended: Ended):
    assert result.keys() >= PROMISED
    assert (result["num_trials"], result["num_packs"], len(result["trials"])) == (16, 1, 16)
    assert all(trial.keys() >= OF_EACH_TRIAL for trial in result["trials"])
    assert {trial["status"] for trial in result["trials"]} == {"succeeded", "stopped"}
    whole = [trial for trial in result["trials"] if trial["status"] == "succeeded"]
    best = min(whole, key=lambda trial: trial["metric"])
    assert result["best_adapter_uri"] == best["adapter_uri"] is not None
    assert (best["trial_id"], best["config"], best["metric"]) == (
        *(result["best_trial"], result["best_config"]),
        result["best_metric"],
    )
    assert result["tokens"] == sum(trial["tokens"] for trial in result["trials"]) > 0
    assert result["wall_s"] > 0
    assert "Traceback" not in ended.err
    assert ended.left_behind == ()


def test_finished_trials_took_the_whole_budget_and_only_they(result: dict[str, Any]):
    for trial in result["trials"]:
        is_whole = trial["steps"] == ASHA["budget"]["steps"]
        assert is_whole == (trial["status"] == "succeeded") == (trial["adapter_uri"] is not None), trial


def test_each_adapter_has_alone_the_loss_that_was_reported(
    succeeded: list[dict[str, Any]], in_workplace: Path, tmp_path: Path
):
    sweep = loaded(in_workplace, "asha.yaml")
    for trial in succeeded:
        alone = loss_alone(run_of(sweep, trial), trial["adapter_uri"], tmp_path)
        assert alone == pytest.approx(trial["metric"], abs=1e-5), trial["trial_id"]


def assert_loads_in_peft(trials: list[dict[str, Any]]) -> None:
    for trial in trials:
        stored = load_file(Path(trial["adapter_uri"]) / "adapter_model.safetensors")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), trial["adapter_uri"])
        found = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "lora_" in name}
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())
        assert model.peft_config["default"].r == trial["config"]["lora_r"]


def test_each_adapter_loads_in_peft(succeeded: list[dict[str, Any]], in_workplace: Path):
    assert_loads_in_peft(succeeded)


def test_mlflow_has_a_parent_and_a_child_for_each_trial(command: Command, result: dict[str, Any]):
    mlflow = client(command)
    parent = mlflow.get_run(result["mlflow_run_id"])
    children = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    runs = {run.info.run_id: run for run in mlflow.search_runs([parent.info.experiment_id], children)}
    assert parent.info.status == "FINISHED"
    assert runs.keys() == {trial["mlflow_run_id"] for trial in result["trials"]}
    for trial in result["trials"]:
        run = runs[trial["mlflow_run_id"]]
        assert run.info.status == {"succeeded": "FINISHED", "stopped": "KILLED"}[trial["status"]]
        assert run.data.metrics["eval_loss"] == pytest.approx(trial["metric"])
        assert run.data.params["lora_r"] == str(trial["config"]["lora_r"])
        assert ("raylora.best" in run.data.tags) == (trial["trial_id"] == result["best_trial"])
        steps = [point.step for point in mlflow.get_metric_history(run.info.run_id, "train_loss")]
        assert steps == list(range(1, trial["steps"] + 1))
        artifacts = {file.path for file in mlflow.list_artifacts(run.info.run_id)}
        assert ("adapter" in artifacts) == (trial["status"] == "succeeded")
    assert parent.data.tags["raylora.best_trial"] == result["best_trial"]
    assert json.loads(parent.data.tags["raylora.best_config"]) == result["best_config"]
    files = {Path(file.path).name for file in mlflow.list_artifacts(parent.info.run_id, "report")}
    assert files == {"report.html", "winner.yaml", *(f"{picture}.png" for picture in PICTURES)}


def test_the_record_and_the_report_say_the_same(
    command: Command, result: dict[str, Any], in_workplace: Path, tmp_path: Path
):
    assert the_record(command).status == "finished"
    report = command.run("report", result["sweep_id"], "--json", "--out", str(tmp_path / "report")).json
    assert (report["best_trial"], report["best_config"]) == (result["best_trial"], result["best_config"])
    assert Path(report["page"]).read_text().startswith("<!")
    again = command.run("resume", result["sweep_id"], "--json")
    assert again.json == result
    assert "finished at" in again.err
    # The winner's configuration trains alone what was trained in the pack.
    alone = trained_alone(load_spec(Path(report["winner"])).spec, tmp_path)
    assert alone.progress.eval_loss == pytest.approx(result["best_metric"], abs=1e-5)


@pytest.fixture(scope="module")
def unpacked(
    result: dict[str, Any], workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[int, float]]:
    """Each trial's validation losses by step, trained alone and never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        sweep = loaded(workplace, "asha.yaml")
        runs = [run_of(sweep, trial) for trial in result["trials"]]
        return curves_alone(runs, tmp_path_factory.mktemp("unpacked"))


def test_each_trial_has_the_losses_it_has_alone(command: Command, unpacked: list[dict[int, float]]):
    for trial, alone in zip(the_record(command).trials, unpacked, strict=True):
        told = {point.step: point.eval_loss for point in trial.curve if point.eval_loss is not None}
        assert list(told) == list(range(1, trial.steps + 1))
        assert told == pytest.approx({step: alone[step] for step in told}, abs=1e-5), trial.trial_id


def test_asha_decides_what_it_decides_over_an_actor_for_each_trial(
    result: dict[str, Any], unpacked: list[dict[int, float]], in_workplace: Path, tmp_path: Path
):
    """Tune's actors tell it the losses of the trials alone, of which it may ask for as many as it likes."""
    sweep = loaded(in_workplace, "asha.yaml")
    plain = told_again(sweep, dict(enumerate(unpacked)), 8, tmp_path / "plain")
    assert [each.error for each in plain] == [None] * 16
    assert [resolve(sweep.space, each.config) for each in plain] == [trial["config"] for trial in result["trials"]]
    steps = [trial["steps"] for trial in result["trials"]]
    assert [each.metrics["steps"] for each in plain] == steps
    assert len(set(steps)) > 2
    whole = [number for number in range(16) if steps[number] == ASHA["budget"]["steps"]]
    best = min(whole, key=lambda number: plain[number].metrics["eval_loss"])
    assert result["best_trial"] == f"t{best:03d}"


def test_zero3_trains_what_fsdp_trains(on_head: Command, ray_head: RayHead, command: Command, in_workplace: Path):
    """As far as ASHA let each trial under FSDP2 go; in one slot, which both workers share."""
    ray_head.forget_workers()
    place = ("distributed.strategy=deepspeed", "distributed.zero_stage=3", "scheduler=fifo", "num_trials=3", "slots=1")
    found = whole(on_head.run("sweep", "asha.yaml", "--json", *overrides(*place)))
    assert [(trial["status"], trial["steps"]) for trial in found["trials"]] == [("succeeded", 8)] * 3
    assert sorted(env["RANK"] for env in ray_head.seen_by_workers().values() if "RANK" in env) == ["0", "1"]
    same_curves(the_record(on_head), the_record(command))
    assert_loads_in_peft(found["trials"])


@pytest.fixture(scope="module")
def grid(whole_grid: tuple[Command, Ended]) -> dict[str, Any]:
    return whole(whole_grid[1])


def test_a_trial_whose_loss_is_not_finite_fails_alone(grid: dict[str, Any]):
    statuses = {trial["config"]["learning_rate"]: trial["status"] for trial in grid["trials"]}
    assert statuses == {1e-3: "succeeded", 1e30: "failed", 5e-3: "succeeded", 2e-3: "succeeded"}
    (failed,) = [trial for trial in grid["trials"] if trial["status"] == "failed"]
    assert "at step" in failed["error"] and "learning_rate" in failed["error"]
    assert failed["adapter_uri"] is None
    assert all(math.isfinite(trial["metric"]) for trial in grid["trials"] if trial is not failed)
    assert failed["trial_id"] != grid["best_trial"]


def test_one_worker_trains_a_slot_as_alone(grid: dict[str, Any], in_workplace: Path, tmp_path: Path):
    """By the bit, with one thread; beside a trial whose loss is not finite."""
    trial = grid["trials"][2]
    alone = trained_alone(run_of(loaded(in_workplace, "grid.yaml"), trial), tmp_path)
    assert alone.progress.eval_loss == trial["metric"]


def test_packs_of_three_kinds_take_turns_where_one_has_room(on_head: Command, ray_head: RayHead):
    """Trials whose rows cannot be read fail alone, beside one whose can."""
    (on_head.folder / "broken.jsonl").write_text((on_head.folder / "rows.jsonl").read_text() + '{"messages": \n')
    files = ["gone.jsonl", "rows.jsonl", "broken.jsonl"]
    space = {
        "sequence_len": {"choice": [64, 128]},
        "datasets.0.path": {"choice": files, "when": {"sequence_len": 64}},
        "adapter_bank": {"choice": ["peft", "packed"], "when": {"sequence_len": 128}},
    }
    run = SWEPT | {"distributed": ALONE_ON_ITS_RANK}
    sweep = {"run": run, "searcher": "grid", "budget": {"steps": 2}, "report_steps": 1, "slots": 2, "space": space}
    result = whole(on_head.run("sweep", write(on_head.folder, "kinds.yaml", sweep), "--json"))
    unread = {trial["config"]["datasets.0.path"]: trial["error"] for trial in result["trials"] if trial["error"]}
    assert unread.keys() == {"gone.jsonl", "broken.jsonl"}
    assert "gone.jsonl: no such file" in unread["gone.jsonl"]
    assert "broken.jsonl, line 201" in unread["broken.jsonl"]
    sound = [trial for trial in result["trials"] if not trial["error"]]
    assert [trial["status"] for trial in sound] == ["succeeded"] * 3
    assert result["num_packs"] == len({trial["pack"] for trial in sound}) == 3
    assert ray_head.census() == {"actors": [], "groups": []}


@pytest.mark.parametrize(
    ("scheduler", "num_trials", "more", "ends"),
    [
        # Of eight trials the second of Tune's brackets has three, which are halved once.
        ("hyperband", 8, {"reduction_factor": 2}, {"succeeded", "stopped"}),
        ("pbt", 4, {"perturbation_interval": 2, "quantile_fraction": 0.5}, {"succeeded"}),
    ],
)
def test_schedulers_that_pause_and_clone_come_to_their_end(
    on_head: Command, scheduler: str, num_trials: int, more: dict[str, Any], ends: set[str]
):
    sweep = GRID | {"searcher": "random", "scheduler": scheduler, "report_steps": 1} | more
    space = {"learning_rate": {"loguniform": [1e-4, 2e-2]}, "lora_dropout": {"uniform": [0.0, 0.3]}}
    sweep |= {"space": space, "slots": 4}
    del sweep["budget"]
    name = write(on_head.folder, f"{scheduler}.yaml", sweep)
    changes = overrides(f"num_trials={num_trials}", "max_steps=6")
    result = whole(on_head.run("sweep", name, "--json", *changes))
    statuses = [trial["status"] for trial in result["trials"]]
    assert len(statuses) == num_trials
    assert set(statuses) == ends
    assert max(trial["steps"] for trial in result["trials"]) == 6
    best = the_record(on_head).trials[int(result["best_trial"][1:])]
    assert [point.step for point in best.curve] == list(range(1, best.steps + 1))
    # MLflow keeps the parameters that a trial began with.
    begun = [client(on_head).get_run(trial["mlflow_run_id"]).data.params for trial in result["trials"]]
    ended = [trial["config"] for trial in result["trials"]]
    for knob in space:
        has_changed = [float(first[knob]) != last[knob] for first, last in zip(begun, ended, strict=True)]
        assert any(has_changed) == (scheduler == "pbt"), knob
