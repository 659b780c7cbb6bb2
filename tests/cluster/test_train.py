"""One whole run, two workers on a Ray that it starts itself, NF4 under FSDP2: what it prints and what it leaves."""

from __future__ import annotations

import json
import math
import shlex
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mlflow.entities import Run
from peft import PeftModel
from transformers import AutoModelForCausalLM

from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.spec.reading.load import load_spec
from raylora.store.blob import open_store
from raylora.store.home import cache_dir
from raylora.store.manifest import read_manifest
from tests.cluster.command import Command, Ended
from tests.cluster.conftest import PASSWORD, RUN
from tests.cluster.undisturbed import client
from tests.servers.mlflow import LEAN
from tests.servers.process import Server, free_ports
from tests.servers.ray import seen_by_workers
from tests.unit.train.tiny_run import build_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PROMISED = {
    *("run_id", "mlflow_run_id", "adapter_uri", "checkpoint_uri", "strategy", "num_workers", "eval_loss_before"),
    "eval_metrics",
    *("eval_loss", "train_loss", "tokens", "tokens_per_s", "base_bytes_per_rank", "trainable_parameters", "wall_s"),
}


@pytest.fixture(scope="module")
def command(whole_run: tuple[Command, Ended]) -> Command:
    return whole_run[0]


@pytest.fixture(scope="module")
def ended(whole_run: tuple[Command, Ended]) -> Ended:
    return whole_run[1]


@pytest.fixture(scope="module")
def result(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    return ended.json


@pytest.fixture(scope="module")
def mlflow_run(command: Command, result: dict[str, Any]) -> Run:
    return client(command).get_run(result["mlflow_run_id"])


def test_the_result_has_what_was_promised(result: dict[str, Any]):
    assert result.keys() >= PROMISED
    assert (result["strategy"], result["num_workers"], result["steps"]) == ("fsdp", 2, RUN["max_steps"])
    assert result["eval_loss"] < result["eval_loss_before"]
    assert result["tokens"] > 0
    assert result["tokens_per_s"] > 0
    assert len(result["samples"]["before"]) == len(result["samples"]["after"]) == 1


def test_the_log_is_on_standard_error(ended: Ended):
    assert f"step {RUN['max_steps']}/{RUN['max_steps']}" in ended.err
    assert "Traceback" not in ended.err


def test_workers_see_what_was_listed_and_what_is_the_systems(command: Command, result: dict[str, Any]):
    """They were started with all that the command has."""
    seen = seen_by_workers(Path(command.env["NOTES"])).values()
    assert sorted(env["RANK"] for env in seen) == ["0", "1"]
    for env in seen:
        assert (env["RAYLORA_HOME"], env["GREETING"]) == (str(command.home), "hello")
        assert "PATH" in env
        assert {PASSWORD, "NOTES"}.isdisjoint(env)


def test_no_process_is_left(ended: Ended):
    assert ended.left_behind == ()


def test_each_rank_holds_half_of_the_base(result: dict[str, Any], workplace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workplace)
    alone = load_spec(workplace / "run.yaml", ["distributed.strategy=ddp", "distributed.num_workers=1"]).spec
    whole = build_tiny(alone).held_base_bytes
    assert len(result["base_bytes_per_rank"]) == 2
    for held in result["base_bytes_per_rank"]:
        assert whole / 2 <= held <= 1.02 * whole / 2


def test_the_adapter_loads_in_peft(result: dict[str, Any], workplace: Path):
    stored = safetensors.torch.load_file(Path(result["adapter_uri"]) / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(workplace / "base"), result["adapter_uri"])
    loaded = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert sum(tensor.numel() for tensor in stored.values()) == result["trainable_parameters"]
    assert all(tensor.any() for name, tensor in stored.items() if "lora_B" in name)


def test_the_checkpoint_is_the_newest(result: dict[str, Any]):
    folder = Path(result["checkpoint_uri"])
    assert folder.name == f"step-{RUN['max_steps']:08d}"
    assert (folder / "manifest.json").exists()
    kept = {Path(result["best_checkpoint_uri"]).name, "step-00000016", folder.name}
    assert {found.name for found in folder.parent.iterdir()} == kept, "storage.keep_checkpoints and the best"


def test_the_record_says_finished(command: Command, result: dict[str, Any]):
    listed = command.run("runs", "--json").json["runs"]
    assert [(run["run_id"], run["status"]) for run in listed] == [(result["run_id"], "finished")]
    assert listed[0]["mlflow_run_id"] == result["mlflow_run_id"]
    assert listed[0]["result"]["eval_loss"] == result["eval_loss"]


def test_mlflow_has_one_finished_run(command: Command, mlflow_run: Run):
    experiment = client(command).get_experiment_by_name("raylora")
    assert [run.info.run_id for run in client(command).search_runs([experiment.experiment_id])] == [
        mlflow_run.info.run_id
    ]
    assert mlflow_run.info.status == "FINISHED"


def test_mlflow_has_each_step_once(command: Command, result: dict[str, Any]):
    steps = {
        name: [point.step for point in client(command).get_metric_history(result["mlflow_run_id"], name)]
        for name in ("train_loss", "learning_rate", "grad_norm", "tokens_per_s", "eval_loss")
    }
    evaluated = steps.pop("eval_loss")
    assert all(seen == list(range(1, RUN["max_steps"] + 1)) for seen in steps.values())
    assert evaluated == [0, 12, 24]


def test_mlflow_has_the_results_numbers(mlflow_run: Run, result: dict[str, Any]):
    assert mlflow_run.data.metrics["train_loss"] == pytest.approx(result["train_loss"])
    assert mlflow_run.data.metrics["eval_loss"] == pytest.approx(result["eval_loss"])
    told = result["eval_metrics"]
    assert told["eval_perplexity"] == pytest.approx(math.exp(result["eval_loss"]))
    assert 0 < told["eval_token_accuracy"] < 1
    assert {name: mlflow_run.data.metrics[name] for name in told} == pytest.approx(told)
    assert mlflow_run.data.params["lora_r"] == str(RUN["lora_r"])
    assert mlflow_run.data.params["distributed.strategy"] == "fsdp"
    assert any(name.startswith("system/cpu") for name in mlflow_run.data.metrics)


def test_mlflow_has_the_data(mlflow_run: Run):
    uses = {
        next(tag.value for tag in use.tags if tag.key == "mlflow.data.context"): json.loads(use.dataset.profile)
        for use in mlflow_run.inputs.dataset_inputs
    }
    assert {context: use["num_rows"] for context, use in uses.items()} == {"training": 188, "validation": 12}


def test_the_record_has_what_became_of_every_row(command: Command, result: dict[str, Any]):
    (recorded,) = command.run("runs", "--json").json["runs"]
    assert recorded["result"]["data"] == result["data"]
    (source,) = result["data"]["train"]
    assert (source["num_rows"], source["num_kept"], source["num_truncated"]) == (200, 200, 0)
    assert (result["data"]["num_train_rows"], result["data"]["num_validation_rows"]) == (188, 12)


def test_mlflow_has_the_lineage(mlflow_run: Run, result: dict[str, Any], workplace: Path):
    adapter = Path(result["adapter_uri"])
    recorded = read_manifest(open_store(str(adapter.parent)), adapter.name).about
    tags = mlflow_run.data.tags
    for name in ("base_digest", "data_digest", "tokenizer_digest", "spec_digest", "run_id", "eval_loss"):
        assert tags[f"raylora.{name}"] == str(recorded[name]), name
    assert recorded["tokenizer_digest"] == tokenizer_digest(load_tokenizer(workplace / "base"))
    assert recorded["eval_loss"] == result["eval_loss"]


def test_mlflow_has_the_files(command: Command, result: dict[str, Any], tmp_path: Path):
    run_id = result["mlflow_run_id"]
    assert {file.path for file in client(command).list_artifacts(run_id)} >= {"loss.png", "adapter", "spec.yaml"}
    copy = Path(client(command).download_artifacts(run_id, "", str(tmp_path)))
    assert (copy / "loss.png").read_bytes().startswith(b"\x89PNG")
    name = "adapter_model.safetensors"
    assert (copy / "adapter" / name).read_bytes() == (Path(result["adapter_uri"]) / name).read_bytes()


@pytest.fixture
def opened(result: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """The address at which MLflow serves, started by the command that the run printed and in another folder."""
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    env = {**LEAN, "MLFLOW_PORT": str(port), "MLFLOW_WORKERS": "1"}  # its own port may be taken
    words = shlex.split(result["mlflow_command"])
    server = Server(words, tmp_path / "mlflow.log", lambda: bool(got(f"{uri}/health")), env=env)
    server.start()
    yield uri
    server.stop(signal.SIGKILL)


def got(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return bytes(answer.read())


def test_the_printed_command_opens_the_run(opened: str, result: dict[str, Any]):
    run_id = result["mlflow_run_id"]
    run = json.loads(got(f"{opened}/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["eval_loss"] == pytest.approx(result["eval_loss"])
    name = "adapter_model.safetensors"
    stored = (Path(result["adapter_uri"]) / name).read_bytes()
    assert got(f"{opened}/get-artifact?run_id={run_id}&path=adapter/{name}") == stored
    assert b"<title>MLflow" in got(opened)


def test_the_printed_command_talks_to_the_adapter(command: Command, result: dict[str, Any]):
    said = command.run(*shlex.split(result["chat_command"])[1:])
    assert said.code == 0, said.err
    assert f"{result['run_id']} answers" in said.err


def test_nothing_else_is_left_in_the_home(command: Command, result: dict[str, Any]):
    assert {path.name for path in command.home.iterdir()} <= {"cache", "mlartifacts", "mlflow.db", "spool", "store"}
    assert list((command.home / "spool").iterdir()) == []
    assert [path.name for path in (command.home / "store" / "runs").iterdir()] == [result["run_id"]]
    assert cache_dir() != command.home / "cache", "the home of the tests is another"
