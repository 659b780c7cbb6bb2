"""Adapters that no server should load: a run registers none, and no command takes one or leaves half a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.model.export import FOLDER
from raylora.store.blob import open_store
from raylora.store.runs import list_runs, run_store
from tests.cluster.bad_adapters import BY_ITSELF, DAMAGE, NEEDS_ITS_BASE, REFUSED, WITH_ITS_BASE, copy_twice, spoil
from tests.cluster.command import Command, Ended, overrides
from tests.cluster.undisturbed import client

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def folder(whole_run: tuple[Command, Ended], workplace: Path, tmp_path: Path) -> Path:
    """An adapter as it was trained, twice, without its manifest: as ones that come from elsewhere."""
    copy_twice(Path(whole_run[1].json["adapter_uri"]), tmp_path)
    (tmp_path / "base").symlink_to(workplace / "base")
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_command_takes_a_bad_adapter(folder: Path, damage: str):
    spoil(folder / "bad", damage)
    command = Command(folder, folder / "home")
    for what, words in (WITH_ITS_BASE if damage == NEEDS_ITS_BASE else WITH_ITS_BASE | BY_ITSELF).items():
        ended = command.run(*words, "--json")
        assert ended.code == 2, f"{what}: {ended.out}{ended.err}"
        assert damage == NEEDS_ITS_BASE or REFUSED in ended.error, f"{what}: {ended.error}"
        assert not (folder / "made").exists(), what


def test_a_run_registers_no_adapter_that_is_not_finite(on_head: Command):
    """Its only step has a finite loss, and leaves weights that are not."""
    once = ("max_steps=1", "save_steps=null", "eval_steps=null", "val_set_size=0", "sample_prompts=[]")
    ended = on_head.run("train", "run.yaml", "--json", *overrides(*once, "learning_rate=1e39", "warmup_steps=0"))
    assert ended.code == 1, ended.err
    assert "not kept" in ended.error
    store = open_store(str(on_head.home / "store"))
    (record,) = list_runs(store)
    assert record.status == "failed" and record.result is None
    assert run_store(store, record.run_id).keys(FOLDER) == []
    mlflow = client(on_head)
    (tracked,) = mlflow.search_runs([mlflow.get_experiment_by_name("raylora").experiment_id])
    assert tracked.info.status == "FAILED"
    assert FOLDER not in [file.path for file in mlflow.list_artifacts(tracked.info.run_id)]
    refused = on_head.run("generate", record.run_id, "--prompt", "hi", "--json")
    assert refused.code == 2, refused.err
