from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import CorruptObjectError, InputError
from raylora.spec.run import RunSpec
from raylora.store.blob import Store, open_store
from raylora.store.runs import list_runs, new_run, read_run, run_store, update_run, write_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(base_model="m", datasets=[{"path": "d.jsonl"}])


def test_a_name_alone_is_no_record(store: Store, spec: RunSpec):
    assert new_run(spec).run_id != new_run(spec).run_id
    assert list_runs(store) == []


def test_a_record_is_what_was_written(store: Store, spec: RunSpec):
    record = write_run(store, new_run(spec))
    assert store.keys() == [f"runs/{record.run_id}/run.json"]
    assert read_run(store, record.run_id) == record
    assert (record.status, record.spec_digest) == ("running", spec.digest)
    assert RunSpec.model_validate(record.spec) == spec


def test_an_update_changes_what_it_names_and_the_time(store: Store, spec: RunSpec):
    before = write_run(store, new_run(spec))
    update_run(store, before.run_id, mlflow_run_id="m1")
    after = update_run(store, before.run_id, status="finished", result={"eval_loss": 1.5})
    assert read_run(store, before.run_id) == after
    assert (after.mlflow_run_id, after.status, after.result) == ("m1", "finished", {"eval_loss": 1.5})
    assert (after.run_id, after.created, after.spec) == (before.run_id, before.created, before.spec)
    assert after.updated > before.updated


def test_an_update_of_an_unknown_field_or_status_is_refused(store: Store, spec: RunSpec):
    run_id = write_run(store, new_run(spec)).run_id
    with pytest.raises(TypeError, match="stauts"):
        update_run(store, run_id, stauts="failed")
    with pytest.raises(ValueError, match="status"):
        update_run(store, run_id, status="done")
    assert read_run(store, run_id).status == "running"


def test_an_unknown_run_is_bad_input_that_names_known_ones(store: Store, spec: RunSpec):
    with pytest.raises(InputError, match="no runs"):
        read_run(store, "r1")
    known = write_run(store, new_run(spec)).run_id
    with pytest.raises(InputError, match=f"'r1' is not in .*; there: {known}; run `raylora runs`"):
        read_run(store, "r1")
    with pytest.raises(InputError, match="no name inside a store"):
        read_run(store, "../../etc")


def test_runs_are_listed_newest_first_and_damage_hides_one_only(
    store: Store, spec: RunSpec, caplog: pytest.LogCaptureFixture
):
    ids = sorted((write_run(store, new_run(spec)).run_id for _ in range(3)), reverse=True)
    run_store(store, ids[0]).write("checkpoints/step-00000001/manifest.json", b"{}")
    store.write(f"runs/{ids[1]}/run.json", b"{")
    assert [record.run_id for record in list_runs(store)] == [ids[0], ids[2]]
    assert ids[1] in caplog.text
    with pytest.raises(CorruptObjectError, match="not the record of a run"):
        read_run(store, ids[1])


@pytest.mark.parametrize("name", ["20260101-000000-abcdef", "../../elsewhere", "/elsewhere", ""])
def test_a_record_of_another_run_is_refused_and_passed_over(
    store: Store, spec: RunSpec, caplog: pytest.LogCaptureFixture, name: str
):
    whole, forged = (write_run(store, new_run(spec)) for _ in range(2))
    key = f"runs/{forged.run_id}/run.json"
    store.write(key, forged.model_copy(update={"run_id": name}).model_dump_json().encode())
    with pytest.raises(CorruptObjectError, match=rf"record of run '{name}', expected that of '{forged.run_id}'"):
        read_run(store, forged.run_id)
    with pytest.raises(CorruptObjectError):
        update_run(store, forged.run_id, status="finished")
    assert [record.run_id for record in list_runs(store)] == [whole.run_id]
    assert forged.run_id in caplog.text
