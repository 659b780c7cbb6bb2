"""What is seen of a sweep while it goes on: a picture that fits the screen, or plain lines; and of its end."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from rich.console import Console

from raylora.cli.sweep import follow_sweep, print_result
from raylora.cli.sweep_display import MAX_ROWS, SweepLines, SweepPicture
from raylora.errors import InputError, InterruptedRunError, RayloraError, RunFailedError
from raylora.store.sweeps import SweepStatus
from raylora.sweep.result import sweep_result
from raylora.sweep.standing import Listener, Standing, awaited, next_of_pack
from tests.arch.source_tree import REPOSITORY
from tests.unit.cli.terminal import seen, written_to_terminal
from tests.unit.sweep.made_sweeps import large_sweep, sweep, trial

SWEEPING = """
import os

from raylora import log
from raylora.cli.sweep_display import sweep_display
from raylora.sweep.standing import Standing
from tests.unit.sweep.made_sweeps import sweep, trial

log.configure()
told = log.get_logger("raylora.told")
with sweep_display() as show:
    show(Standing(sweep([trial(0, 1.5), trial(1, None, status="running")]), 2, "training"))
    told.info("first")
    show(Standing(sweep([trial(0, 1.5), trial(1, 1.25)]), 2, "training"))
    told.info("second")
    os._exit(0)  # the picture stays as it is
"""


def drawn(picture: SweepPicture, width: int = 120, height: int = 30) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, height=height).print(picture)
    return screen.getvalue().splitlines()


def test_the_picture_says_what_goes_on_before_there_is_a_trial():
    picture = SweepPicture()
    assert drawn(picture) == ["starting (0 s)"]
    picture.show(Standing(sweep([]), 16, "starting workers"))
    lines = drawn(picture)
    assert "0/16 trials over" in lines[1]
    assert lines[2] == "starting workers (0 s)"
    assert len(lines) == 3


def test_the_picture_counts_trials_and_names_the_best():
    picture = SweepPicture()
    trials = [trial(0, 2.5), trial(1, 1.25, status="running"), trial(2, 9.0, status="failed")]
    picture.show(Standing(sweep(trials), 4, "training"))
    lines = drawn(picture)
    assert "2/4 trials over, best t000 with eval_loss 2.5000" in lines[1], "t001 still runs"
    assert any("t002" in line and "failed" in line for line in lines)


@pytest.mark.parametrize("height", [12, 24, 60])
def test_the_picture_fits_the_screen(height: int):
    picture = SweepPicture()
    picture.show(Standing(large_sweep(40), 40, "training"))
    lines = drawn(picture, height=height)
    assert len(lines) <= height
    assert sum("t0" in line for line in lines[3:]) == min(MAX_ROWS, height - 8)


def test_a_terminal_has_the_picture_once_below_what_is_logged():
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    code, written = written_to_terminal([sys.executable, "-c", SWEEPING], REPOSITORY, env)
    assert code == 0, written
    lines = seen(written)
    logged, picture = ("told: first", "told: second"), ("sweep 20260102-", "2/2 trials over", "│ t000", "│ t001")
    places = [[row for row, line in enumerate(lines) if words in line] for words in logged + picture]
    assert [len(found) for found in places] == [1] * len(places), lines
    assert places == sorted(places), "the log above, the picture below"
    assert all("succeeded" in lines[found[0]] for found in places[-2:]), "the newest standing"


def test_lines_tell_each_change_once(capsys: pytest.CaptureFixture[str]):
    lines = SweepLines()
    begun = trial(1, None, status="running", config={"lora_r": 8}, steps=0)
    lines.show(Standing(sweep([]), 2, next_of_pack("import", measures_slots=True)))
    for _ in range(2):
        lines.show(Standing(sweep([begun]), 2, "training"))
    over = trial(0, None, status="failed", error="loss is nan\nat step 3")
    lines.show(Standing(sweep([over, trial(1, 1.5)]), 2, "training"))
    first, *said = capsys.readouterr().err.splitlines()
    assert first.startswith("sweep ")
    assert said == [
        "workers wait for the driver's checks",
        "training",
        "t001 begins: lora_r=8",
        "t000 failed after step 10: loss is nan at step 3",
        "t001 succeeded after step 10, 1.5000; 2/2 trials over, best t001 with eval_loss 1.5000",
    ]


def test_lines_of_a_sweep_that_goes_on_pass_over_what_is_old(capsys: pytest.CaptureFixture[str]):
    lines = SweepLines()
    lines.show(Standing(sweep([trial(0, 1.5), trial(1, 2.5, status="cancelled", steps=4)]), 2, "starting Ray"))
    lines.show(Standing(sweep([trial(0, 1.5), trial(1, 2.5, status="running", steps=4)]), 2, "starting Ray"))
    said = capsys.readouterr().err.splitlines()[1:]
    assert said == ["starting Ray", "t001 goes on after step 4: lora_r=8"]


def test_a_sweep_that_goes_on_waits_for_what_is_not_over():
    picture = SweepPicture()
    left = [trial(0, 1.5), trial(1, 2.5, status="cancelled"), trial(2, 3.5, status="running")]
    assert Standing(sweep(left), 3, "training").num_over == 1
    picture.show(Standing(awaited(sweep(left), "."), 3, "starting Ray"))
    lines = drawn(picture)
    assert "1/3 trials over" in lines[1]
    shown = {name: line for line in lines for name in ("t000", "t001", "t002") if f"│ {name}" in line}
    assert "succeeded" in shown["t000"]
    assert all("paused" in shown[name] for name in ("t001", "t002"))


@pytest.mark.parametrize("status", ["finished", "running"])
def test_an_interrupt_after_the_end_says_where_the_result_is(monkeypatch: pytest.MonkeyPatch, status: SweepStatus):
    record = sweep([trial(0, 1.5)]).model_copy(update={"status": status})

    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    def start(listen: Listener) -> dict[str, Any]:
        listen(Standing(record, 1, "finished"))
        return {}

    monkeypatch.setattr("raylora.cli.sweep.print_result", interrupted)
    with pytest.raises(InterruptedRunError if status == "finished" else KeyboardInterrupt) as told:
        follow_sweep(start, json_=False)
    for command in ("resume", "report") if status == "finished" else ():
        assert f"raylora {command} {record.sweep_id}" in str(told.value)


@pytest.mark.parametrize(
    ("error", "json_"),
    [(InterruptedRunError, False), (RunFailedError, False), (RunFailedError, True), (InputError, False)],
)
def test_a_sweep_that_ends_without_a_result_shows_its_trials(
    capsys: pytest.CaptureFixture[str], error: type[RayloraError], json_: bool
):
    """Not where nothing was trained, nor to programs."""

    def start(listen: Listener) -> dict[str, Any]:
        listen(Standing(sweep([trial(0, 1.5), trial(1, 2.5, status="cancelled", steps=4)]), 2, "interrupted"))
        raise error("no result")

    with pytest.raises(error, match="no result"):
        follow_sweep(start, json_)
    said = capsys.readouterr().out
    assert ("1.5000" in said and "t001" in said and "cancelled" in said) == (error is not InputError and not json_)


def test_a_sweep_of_all_weights_leaves_models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.cli.output.out._width", 200)
    record = sweep([trial(0, 2.0), trial(1, 1.5, adapter_uri="s3://bucket/runs/x-001/model")])
    print_result(record, sweep_result(record) | {"wall_s": 61.0, "mlflow_command": "mlflow ui", "mlflow_run_id": "abc"})
    said = capsys.readouterr().out
    assert "model         s3://bucket/runs/x-001/model" in said.splitlines()
    assert "model" in said.splitlines()[1]
    assert "adapter" not in said


def test_the_end_says_where_everything_is(capsys: pytest.CaptureFixture[str]):
    record = sweep([trial(0, 2.0), trial(1, 1.5, config={"lora_r": 16}, adapter_uri="s3://bucket/runs/x-001/adapter")])
    print_result(record, sweep_result(record) | {"wall_s": 61.0, "mlflow_command": "mlflow ui", "mlflow_run_id": "abc"})
    said = capsys.readouterr().out
    assert "t001 is best with eval_loss 1.5000." in said
    lines = said.splitlines()
    assert "winner        t001  lora_r=16" in lines
    assert "adapter       s3://bucket/runs/x-001/adapter" in lines
    assert "MLflow run    abc" in lines
    assert "open it with  mlflow ui" in lines
    assert f"report        raylora report {record.sweep_id}" in lines
