"""The same run with its rows, its store and MLflow's artifacts in object storage, under ZeRO-3.

The cluster was started without a credential: what reaches its workers came with the run, and lies in no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raylora.errors import CorruptObjectError
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.store.manifest import fetch, read_manifest
from raylora.store.runs import list_runs, run_store
from raylora.store.signature import SEAL
from tests.cluster.command import Command, Ended, overrides
from tests.cluster.conftest import GRID, RUN
from tests.cluster.made_sweeps import whole, write
from tests.cluster.refused import said_in_one_line
from tests.cluster.secrets_found import files_with, holds, keys_with
from tests.cluster.undisturbed import client
from tests.servers.ray import RayHead
from tests.servers.s3 import SECRET, S3Server
from tests.unit.train.tiny_run import write_chats

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CANARIES = {
    "HF_TOKEN": "hf-token-nobody-may-print",
    "RAYLORA_SIGNING_KEY": "signing-key-nobody-may-print",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-password-nobody-may-print",
}
LISTED = {"HF_ENDPOINT": "https://hub.example", "NO_PROXY": "*"}
NAMED = {"GREETING": "hello"}
NOT_LISTED = {"OTHER_SECRET": "stays-with-the-driver", "MLFLOW_TRACKING_PASSWORD": CANARIES["MLFLOW_TRACKING_PASSWORD"]}


@pytest.fixture(scope="module")
def s3_as_owner(s3_server: S3Server) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.env.items():
            patch.setenv(name, value)
        yield s3_server


@pytest.fixture(scope="module")
def command(workplace: Path, ray_head: RayHead, s3_as_owner: S3Server, new_home: Callable[[], Path]) -> Command:
    env = {**ray_head.env, **s3_as_owner.env, **CANARIES, **LISTED, **NAMED, **NOT_LISTED}
    return Command(workplace, new_home(), env)


@pytest.fixture(scope="module")
def in_bucket(s3_as_owner: S3Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of what is trained on rows of the bucket and keeps everything there."""
    data = open_store(s3_as_owner.uri("data"))
    for number, name in enumerate(("train.jsonl", "validation.jsonl")):
        data.upload(write_chats(tmp_path_factory.mktemp("rows") / name, 60, seed=number + 1), name)
    settings = {
        "storage.uri": s3_as_owner.uri("store"),
        "tracking.experiment": "on-s3",
        "tracking.artifact_uri": s3_as_owner.uri("mlflow"),
        "datasets.0.path": s3_as_owner.uri("data/train.jsonl"),
        "test_datasets": f"[{{path: {s3_as_owner.uri('data/validation.jsonl')}}}]",
        "val_set_size": "0",
        "ray.forward_env": f"[{', '.join(NAMED)}]",
    }
    return overrides(*(f"{name}={value}" for name, value in settings.items()))


@pytest.fixture(scope="module")
def ended(command: Command, ray_head: RayHead, in_bucket: list[str]) -> Ended:
    ray_head.forget_workers()
    return command.run("train", "run.yaml", "--json", *in_bucket, *overrides("distributed.strategy=deepspeed"))


@pytest.fixture(scope="module")
def failed(command: Command, result: dict[str, Any], in_bucket: list[str]) -> Ended:
    """A run that fails in its workers, whose error comes through Ray to the driver, the record and MLflow.

    The first step moves nothing, the second ruins all.
    """
    wild = ("learning_rate=1e30", "warmup_steps=1", "save_steps=1", "distributed.max_failures=2")
    return command.run("train", "run.yaml", "--json", *in_bucket, *overrides(*wild))


@pytest.fixture(scope="module")
def swept(command: Command, result: dict[str, Any], in_bucket: list[str]) -> Ended:
    """Two trials, one of which fails, with all that Ray Tune keeps in the bucket."""
    space = {"learning_rate": {"choice": [5e-3, 1e30]}, "lora_r": {"choice": [8]}}
    name = write(command.folder, "sweep-s3.yaml", GRID | {"budget": {"steps": 6}, "slots": 2, "space": space})
    return command.run("sweep", name, "--json", *in_bucket, *overrides("save_steps=2"))


@pytest.fixture(scope="module")
def written(command: Command, result: dict[str, Any], s3_as_owner: S3Server) -> list[Ended]:
    """The run's adapter, merged and exported from the bucket into folders of the home."""
    place, base = (result["run_id"], "--store", s3_as_owner.uri("store"), "--json", "--out"), "owner/tiny-llama"
    return [
        command.run("merge", *place, str(command.home / "merged")),
        command.run("export", *place, str(command.home / "exported"), "--for", "vllm", "--base-name", base),
    ]


@pytest.fixture(scope="module")
def tables(ray_head: RayHead, ended: Ended, failed: Ended, swept: Ended) -> bytes:
    """Ray's, after all of them."""
    return ray_head.tables()


@pytest.fixture(scope="module")
def result(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    return ended.json


def test_zero3_trains_like_fsdp(result: dict[str, Any], whole_run: tuple[Command, Ended]):
    fsdp = whole_run[1].json
    assert (result["strategy"], result["steps"]) == ("zero3", RUN["max_steps"])
    assert result["eval_loss"] < result["eval_loss_before"]
    assert result["trainable_parameters"] == fsdp["trainable_parameters"]
    for mine, theirs in zip(result["base_bytes_per_rank"], fsdp["base_bytes_per_rank"], strict=True):
        assert mine == pytest.approx(theirs, rel=0.05)


def test_adapter_and_checkpoint_are_whole_in_the_bucket(result: dict[str, Any], tmp_path: Path):
    for name, file in (("adapter", "adapter_model.safetensors"), ("checkpoint", "state.safetensors")):
        folder, _, prefix = result[f"{name}_uri"].rpartition("/")
        assert folder.startswith("s3://raylora/store/runs/")
        fetch(open_store(folder), prefix, tmp_path / name)
        assert (tmp_path / name / file).stat().st_size > 0


def test_mlflows_artifacts_are_in_the_bucket(command: Command, result: dict[str, Any], s3_as_owner: S3Server):
    run = MlflowClient(tracking_uri=f"sqlite:///{command.home / 'mlflow.db'}").get_run(result["mlflow_run_id"])
    assert run.info.artifact_uri.startswith(s3_as_owner.uri("mlflow"))
    keys = open_store(run.info.artifact_uri).keys()
    assert {"loss.png", "spec.yaml", "adapter/adapter_model.safetensors"} <= set(keys)
    contexts = [tag.value for use in run.inputs.dataset_inputs for tag in use.tags if tag.key == "mlflow.data.context"]
    assert sorted(contexts) == ["training", "validation"]


def test_workers_see_what_was_listed_and_nothing_else(result: dict[str, Any], ray_head: RayHead, s3_as_owner: S3Server):
    seen = ray_head.seen_by_workers().values()
    assert len(seen) == 2
    for env in seen:
        listed = {name: CANARIES[name] for name in ("HF_TOKEN", "RAYLORA_SIGNING_KEY")} | LISTED
        assert env.items() >= {**s3_as_owner.env, **listed, **NAMED}.items()
        assert NOT_LISTED.keys().isdisjoint(env)
        assert env.keys() >= ray_head.spying.keys(), "what a node's own processes were started with stays"


def test_a_loss_that_is_not_finite_names_step_rows_and_checkpoint(
    command: Command, failed: Ended, s3_as_owner: S3Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAYLORA_SIGNING_KEY", CANARIES["RAYLORA_SIGNING_KEY"])
    error = said_in_one_line(failed)
    assert error.startswith("rank ")
    assert "at step 3, in the rows [" in error
    assert f"The rows are: {s3_as_owner.uri('data/train.jsonl')}, line " in error
    assert error.endswith("step-00000001")
    assert failed.err.count("steps to do") == 1, "a restart would only meet it again"
    store = open_store(s3_as_owner.uri("store"))
    (record,) = [run for run in list_runs(store) if run.run_id in error]
    assert (record.status, record.error) == ("failed", error)
    last = load_latest(run_store(store, record.run_id))
    assert last is not None
    assert error.endswith(last.uri), "a resume goes on from the one that is named"
    run = client(command).get_run(record.mlflow_run_id)
    assert run.info.status == "FAILED"
    assert {len(run.data.tags[f"raylora.{name}"]) for name in ("base_digest", "data_digest", "spec_digest")} == {64}


def test_a_run_and_a_trial_failed_on_the_way(failed: Ended, swept: Ended):
    """What is searched below is not only what goes well."""
    assert (failed.code, failed.json["error"]["type"]) == (1, "NonFiniteLossError"), failed.err
    assert sorted(trial["status"] for trial in whole(swept)["trials"]) == ["failed", "succeeded"]


def test_an_adapter_in_the_bucket_is_merged_and_exported(command: Command, written: list[Ended]):
    assert [ended.code for ended in written] == [0, 0], [ended.err for ended in written]
    for name in ("merged/model.safetensors", "exported/adapter_model.safetensors"):
        assert (command.home / name).stat().st_size > 0


@pytest.mark.parametrize("secret", [SECRET, *CANARIES.values()])
def test_no_secret_is_found(
    command: Command,
    ended: Ended,
    failed: Ended,
    swept: Ended,
    written: list[Ended],
    ray_head: RayHead,
    tables: bytes,
    s3_as_owner: S3Server,
    secret: str,
):
    """In what commands print and write, in Ray's session with its logs, in its tables, or in the bucket."""
    for each in (ended, failed, swept, *written):
        assert not holds((each.out + each.err).encode(), secret)
    for folder in (command.home, command.folder, ray_head.session):
        assert files_with(secret, folder) == []
    assert not holds(tables, secret)
    bucket = open_store(s3_as_owner.uri())
    for prefix in ("store/runs", "store/sweeps", "mlflow"):
        assert keys_with(secret, bucket, prefix) == []


def test_the_tables_know_the_commands_and_their_actors(tables: bytes):
    """What is searched above is of these runs, and not empty."""
    assert all(holds(tables, name) for name in ("raylora.cli.app", "Mailbox", "Host"))


def test_what_tune_keeps_in_the_bucket_is_signed(swept: Ended, s3_as_owner: S3Server):
    """The driver writes it, and the process of the leases, which got the key with the sweep."""
    kept = open_store(s3_as_owner.uri(f"store/sweeps/{whole(swept)['sweep_id']}"))
    keys = kept.keys("tune")
    names = {key.rpartition("/")[2] for key in keys}
    assert {"slots.json", "error.pkl"} <= names and any(name.startswith("experiment_state-") for name in names)
    assert [key for key in keys if not kept.read(key).startswith(SEAL)] == []


def test_what_tune_keeps_compressed_is_opened(swept: Ended, s3_as_owner: S3Server):
    """The word is in what the sweep keeps of its scheduler, and nowhere in the bytes that are searched above."""
    kept = open_store(s3_as_owner.uri(f"store/sweeps/{whole(swept)['sweep_id']}"))
    found = keys_with("stood", kept, "tune")
    assert found and all("experiment_state-" in key for key in found)
    assert [key for key in found if b"stood" in kept.read(key)] == []


def test_manifests_are_signed_by_the_workers(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """The key came with the run; without it the same adapter is not taken."""
    folder, _, prefix = result["adapter_uri"].rpartition("/")
    monkeypatch.setenv("RAYLORA_SIGNING_KEY", CANARIES["RAYLORA_SIGNING_KEY"])
    assert read_manifest(open_store(folder), prefix).files
    monkeypatch.setenv("RAYLORA_SIGNING_KEY", "another")
    with pytest.raises(CorruptObjectError, match="signature is not of the key"):
        read_manifest(open_store(folder), prefix)
