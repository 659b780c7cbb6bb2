from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.errors import CorruptObjectError, InputError
from raylora.store.blob import Store, open_store
from raylora.store.sweeps import (
    MAX_CURVE_POINTS,
    CurvePoint,
    TrialRecord,
    list_sweeps,
    new_sweep,
    read_sweep,
    sweep_store,
    thinned,
    write_sweep,
)
from tests.unit.sweep.made_sweeps import large_sweep, trial

LOSSES = st.none() | st.floats(0, 20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_a_record_is_what_was_written(store: Store):
    record = write_sweep(store, large_sweep(6, repeats=2))
    assert store.keys() == [f"sweeps/{record.sweep_id}/sweep.json"]
    assert read_sweep(store, record.sweep_id) == record
    assert record.updated > datetime(2026, 1, 3, tzinfo=UTC)


def test_a_new_sweep_has_a_name_and_is_not_written(store: Store):
    first, second = new_sweep({"metric": "eval_loss"}), new_sweep({"metric": "eval_loss"})
    assert first.sweep_id != second.sweep_id
    assert (first.status, first.spec, first.trials) == ("running", {"metric": "eval_loss"}, ())
    assert list_sweeps(store) == []


def test_a_loss_that_is_no_number_is_none(store: Store):
    curve = (CurvePoint(1, 8, 2.0), CurvePoint(2, 16, math.nan, math.inf))
    record = new_sweep({}).model_copy(update={"trials": (trial(0, math.nan, status="failed", curve=curve),)})
    (read,) = read_sweep(store, write_sweep(store, record).sweep_id).trials
    assert (read.metric, read.curve) == (None, (CurvePoint(1, 8, 2.0), CurvePoint(2, 16)))


def test_a_point_of_a_curve_is_a_list_of_four(store: Store):
    record = new_sweep({}).model_copy(update={"trials": (trial(0, 1.0, curve=(CurvePoint(1, 8, 2.0),)),)})
    written = write_sweep(store, record)
    told = json.loads(store.read(f"sweeps/{written.sweep_id}/sweep.json"))
    assert told["trials"][0]["curve"] == [[1, 8, 2.0, None]]


def test_a_status_that_is_none_is_refused():
    with pytest.raises(ValueError, match="status"):
        TrialRecord(trial_id="t0", number=0, config={}, status="done")


def test_an_unknown_sweep_is_bad_input_that_names_known_ones(store: Store):
    with pytest.raises(InputError, match=r"sweep 's1' is not in .*; there: no sweeps"):
        read_sweep(store, "s1")
    known = write_sweep(store, new_sweep({})).sweep_id
    with pytest.raises(InputError, match=f"there: {known}; give --store"):
        read_sweep(store, "s1")


def test_sweeps_are_listed_newest_first_and_damage_hides_one_only(store: Store, caplog: pytest.LogCaptureFixture):
    ids = sorted((write_sweep(store, new_sweep({})).sweep_id for _ in range(3)), reverse=True)
    sweep_store(store, ids[0]).write("report/report.html", b"")
    store.write(f"sweeps/{ids[1]}/sweep.json", b"{")
    assert [record.sweep_id for record in list_sweeps(store)] == [ids[0], ids[2]]
    assert ids[1] in caplog.text
    with pytest.raises(CorruptObjectError, match="not the record of a sweep"):
        read_sweep(store, ids[1])


@pytest.mark.parametrize("name", ["20260101-000000-abcdef", "../../elsewhere", "/elsewhere", ""])
def test_a_record_of_another_sweep_is_refused_and_passed_over(
    store: Store, caplog: pytest.LogCaptureFixture, name: str
):
    whole, forged = (write_sweep(store, new_sweep({})) for _ in range(2))
    key = f"sweeps/{forged.sweep_id}/sweep.json"
    store.write(key, forged.model_copy(update={"sweep_id": name}).model_dump_json().encode())
    with pytest.raises(CorruptObjectError, match=rf"record of sweep '{name}', expected that of '{forged.sweep_id}'"):
        read_sweep(store, forged.sweep_id)
    assert [record.sweep_id for record in list_sweeps(store)] == [whole.sweep_id]
    assert forged.sweep_id in caplog.text


def test_a_long_curve_is_written_thinned_with_its_evaluations(store: Store):
    curve = tuple(CurvePoint(step, step, 1.0, 2.0 if step % 50 == 0 else None) for step in range(1, 5001))
    record = new_sweep({}).model_copy(update={"trials": (trial(0, 1.0, curve=curve),)})
    (written,) = write_sweep(store, record).trials
    assert len(written.curve) <= MAX_CURVE_POINTS
    assert [p.step for p in written.curve if p.eval_loss] == list(range(50, 5001, 50))


@given(st.lists(LOSSES, max_size=60), st.integers(2, 20))
def test_thinning_keeps_order_the_last_point_and_what_fits(evaluations: list[float | None], limit: int):
    curve = tuple(CurvePoint(step, step, 1.0, loss) for step, loss in enumerate(evaluations))
    thin = thinned(curve, limit)
    assert len(thin) <= limit
    assert list(thin) == [point for point in curve if point in set(thin)]
    assert thin[-1:] == curve[-1:]
    if len(curve) <= limit:
        assert thin == curve
    evaluated = {point for point in curve if point.eval_loss is not None}
    if len(evaluated) < limit:
        assert evaluated <= set(thin)
