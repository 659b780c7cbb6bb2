"""The command `report`, and the table of trials."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from raylora.cli.trials import TrialsTable, print_trials
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.sweeps import SweepRecord, write_sweep
from raylora.sweep.reporting.summary import summarise
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells
from tests.unit.sweep.made_sweeps import large_sweep, sweep, trial


def printed(record: SweepRecord, width: int) -> str:
    shown = io.StringIO()
    print_trials(record, Console(file=shown, width=width))
    return shown.getvalue()


def live(record: SweepRecord, width: int, max_rows: int) -> str:
    shown = io.StringIO()
    Console(file=shown, width=width).print(TrialsTable(record, max_rows))
    return shown.getvalue()


def test_a_report_as_json(raylora: Raylora, tmp_path: Path):
    record = write_sweep(open_store(str(tmp_path / "store")), large_sweep(8, repeats=2))
    told = raylora("report", record.sweep_id, "--store", tmp_path / "store", "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.err
    winner = summarise(record).winner
    assert winner is not None and len(winner.counted) == 2
    best = min(winner.counted, key=lambda each: each.metric or 0)
    assert told.json["best_mean"] == winner.mean
    assert told.json["sweep_id"] == record.sweep_id
    assert (told.json["best_trial"], told.json["best_metric"]) == (best.trial_id, best.metric)
    assert told.json["best_config"] == best.config
    assert told.json["num_trials"] == 16
    files = [told.json["page"], told.json["winner"], *told.json["pictures"].values()]
    assert {Path(file).name for file in files} == {path.name for path in (tmp_path / "out").iterdir()}


def test_a_report_for_a_person(raylora: Raylora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    record = write_sweep(open_store(default_store_uri()), large_sweep(4))
    told = raylora("report", record.sweep_id)
    assert told.code == 0, told.err
    rows = cells(told.out)
    folder = f"{record.sweep_id}-report"
    assert ["page", f"{folder}/report.html"] in rows
    assert (tmp_path / folder / "winner.yaml").exists()
    assert next(row for row in rows if row and row[0] == "t002")[-1].endswith("000002/adapter")


def test_a_sweep_without_a_result_has_a_report(raylora: Raylora, tmp_path: Path):
    record = write_sweep(open_store(default_store_uri()), sweep([trial(0, status="failed", error="no memory")]))
    told = raylora("report", record.sweep_id, "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["best_trial"], told.json["winner"], told.json["pictures"]) == (0, None, None, {})
    assert "No trial reached" in told.json["verdict"][0]


def test_a_sweep_that_is_not_there_and_a_folder_that_cannot_be(raylora: Raylora, tmp_path: Path):
    known = write_sweep(open_store(default_store_uri()), sweep([trial(0, 1.0)])).sweep_id
    told = raylora("report", "20200101-000000-abcdef", "--json")
    assert told.code == 2
    assert known in told.json["error"]["message"]
    (tmp_path / "file").write_text("")
    told = raylora("report", known, "--out", tmp_path / "file", "--json")
    assert told.code == 2
    assert "--out" in told.json["error"]["message"]


def test_a_wide_table_has_a_column_for_each_knob_also_where_all_trials_drew_the_same():
    trials = [trial(n, 1.0 + n, config={"lora_r": 8 * n, "same": 1}, adapter_uri=f"/a/{n}") for n in range(3)]
    rows = cells(printed(sweep(trials), 120))
    assert ["trial", "lora_r", "same", "steps", "eval_loss", "status", "adapter"] in rows
    assert ["t002", "16", "1", "10", "3.0000", "succeeded", "/a/2"] in rows


@pytest.mark.parametrize("width", [40, 80, 120, 200, 400])
def test_what_people_copy_is_whole_at_any_width(width: int):
    record = large_sweep(10)
    lines = printed(record, width).splitlines()
    for each in record.trials:
        assert any(each.trial_id in line and each.status in line for line in lines), each.trial_id
        assert each.adapter_uri is None or any(each.adapter_uri in line for line in lines)


def test_a_failure_is_told_on_one_line():
    told = printed(sweep([trial(0, status="failed", error="loss is NaN\nat [step] 3")]), 60)
    assert "t000  failed: loss is NaN at [step] 3" in told.splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_a_live_table_has_a_line_a_trial_and_counts_the_others(width: int):
    full = large_sweep(20)
    running = [each.model_copy(update={"status": "running"}) for each in full.trials[3:6]]
    record = full.model_copy(update={"trials": (*full.trials[:3], *running, *full.trials[6:])})
    told = live(record, width, 6)
    shown = [row[0] for row in cells(told) if row and row[0].startswith("t0")]
    assert len(shown) == 6
    assert {"t003", "t004", "t005"} <= set(shown)
    assert shown == sorted(shown)
    hidden = [each.status for each in record.trials if each.trial_id not in shown]
    (last,) = [line for line in told.splitlines() if line.startswith("and ")]
    assert sum(int(word) for word in last.split() if word.isdigit()) == len(hidden) == 14


def test_a_live_table_shows_the_winner_before_stopped_trials_of_a_better_metric():
    trials = [trial(n, 1.0, config={"lora_r": n}, status="stopped") for n in range(4)]
    trials.append(trial(4, 1.5, config={"lora_r": 4}))
    shown = [row[0] for row in cells(live(sweep(trials), 80, 2)) if row and row[0].startswith("t0")]
    assert shown == ["t000", "t004"]
