"""Inputs that a bucket does not give: the trial that asked for them fails, unless the store does not answer either."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.sources.files import bucket_files
from raylora.errors import DataError, ModelError, UnusableStoreError
from raylora.model.source.source import base_config, resolve_base
from raylora.runtime.cluster.desk_messages import Admit, Go
from raylora.runtime.job.whose_fault import faulted_alone
from raylora.runtime.pack.open_inputs import OpenInputs
from raylora.store.blob import open_store
from raylora.train.ranks import Ranks
from tests.servers.stub_s3 import refusal, s3_that_says
from tests.unit.model.tiny import spec_of
from tests.unit.runtime.opened_pack import Post, open_pack
from tests.unit.store.disks import mounted
from tests.unit.train.tiny_run import save_materials, tiny_spec

CLOSED, EXPIRED = (403, refusal("AccessDenied")), (400, refusal("ExpiredToken"))


@pytest.mark.parametrize("name", ["rows.jsonl", "*.jsonl", "rows"])
def test_a_trial_whose_rows_are_in_a_closed_bucket_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    plain = tiny_spec(home / "base", home / "rows.jsonl", max_steps=1)
    closed = tiny_spec(home / "base", home / "rows.jsonl", datasets=[{"path": f"s3://closed/{name}"}])
    pack = open_pack(plain, Post(), tmp_path, num_slots=2)
    with s3_that_says(*CLOSED, monkeypatch) as asked:
        pack._obey(Admit("closed", 0, closed, "run0", None))
    assert asked
    pack._obey(Admit("plain", 1, plain, "run1", None))
    pack._obey(Go("plain"))
    pack._turn()
    failed, *others = pack._reports
    assert (failed.lease, failed.kind) == ("closed", "failed")
    assert str(failed.values["error"]).startswith(f"datasets: s3://closed/{name}: cannot be read: ")
    assert "forbids it to this key" in str(failed.values["error"])
    assert {report.lease for report in others} == {"plain"} and others[-1].kind == "finished"


def test_a_key_that_is_refused_at_the_store_too_is_no_trials_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", datasets=[{"path": "s3://rows/*.jsonl"}])
    with s3_that_says(*EXPIRED, monkeypatch):
        with pytest.raises(UnusableStoreError, match=r"s3://runs/store"):
            OpenInputs(open_store("s3://runs/store")).why_unreadable(spec, Ranks())
        alone = OpenInputs(open_store(str(tmp_path / "store"))).why_unreadable(spec, Ranks())
    assert alone is not None and "refuses the credentials (ExpiredToken)" in alone


def test_a_base_in_a_closed_bucket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = r"^base_model: s3://closed/base: cannot be read: .*forbids it to this key"
    with s3_that_says(*CLOSED, monkeypatch):
        with pytest.raises(ModelError, match=said):
            resolve_base(spec_of("s3://closed/base"), tmp_path)
        with pytest.raises(ModelError, match=said):
            base_config(spec_of("s3://closed/base"))
        with pytest.raises(UnusableStoreError, match="s3://runs"), faulted_alone(open_store("s3://runs")):
            resolve_base(spec_of("s3://closed/base"), tmp_path)


def test_a_disk_that_has_no_room_for_a_copy_is_this_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every run's copies would be made there."""
    row = b'{"messages": [{"role": "assistant", "content": "a"}]}\n'
    with mounted(tmp_path / "disk", 1 << 20) as disk, s3_that_says(200, row * 100_000, monkeypatch):
        with pytest.raises(UnusableStoreError, match=r"s3://rows/a\.jsonl.*the disk is full"):
            bucket_files("s3://rows/a.jsonl", disk / "downloads")
        assert not list(disk.rglob("*.partial"))


def test_a_bucket_that_is_not_there_is_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = r"^datasets: s3://nowhere/\*\.jsonl: .*has no bucket 'nowhere'"
    with s3_that_says(404, refusal("NoSuchBucket"), monkeypatch), pytest.raises(DataError, match=said):
        bucket_files("s3://nowhere/*.jsonl", tmp_path)
