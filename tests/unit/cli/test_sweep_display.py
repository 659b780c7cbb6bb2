"""What is seen of a sweep while it goes on: a picture that fits the screen, or plain lines; and of its end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from raylora.cli.sweep import print_result
from raylora.cli.sweep_display import MAX_ROWS, SweepLines, SweepPicture
from raylora.sweep.result import sweep_result
from raylora.sweep.standing import Standing, next_part
from tests.unit.sweep.made_sweeps import large_sweep, sweep, trial


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
    assert "2/4 trials over, best t001 with eval_loss 1.2500" in lines[1]
    assert any("t002" in line and "failed" in line for line in lines)


@pytest.mark.parametrize("height", [12, 24, 60])
def test_the_picture_fits_the_screen(height: int):
    picture = SweepPicture()
    picture.show(Standing(large_sweep(40), 40, "training"))
    lines = drawn(picture, height=height)
    assert len(lines) <= height
    assert sum("t0" in line for line in lines[3:]) == min(MAX_ROWS, height - 8)


def test_lines_tell_each_change_once(capsys: pytest.CaptureFixture[str]):
    lines = SweepLines()
    begun = trial(1, None, status="running", config={"lora_r": 8}, steps=0)
    lines.show(Standing(sweep([]), 2, next_part("import")))
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
