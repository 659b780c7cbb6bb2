"""What is seen of a run: plain lines, or one line that moves."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from raylora.cli import progress
from raylora.cli.progress import PlainDisplay
from raylora.train.events import Event

STEP = {"train_loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0, "num_tokens": 100.0, "tokens_per_s": 1234.0}


def test_plain_lines_survive_restarted_workers(capsys: pytest.CaptureFixture[str]):
    display = PlainDisplay()
    for _ in range(2):  # the workers died after the second step, and began anew
        display.show(Event("start", 0, {"num_steps": 4}))
        for step in (1, 2):
            display.show(Event("step", step, STEP))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" loss")[0] for line in lines if line.startswith("step")] == ["step 1/4", "step 2/4"] * 2
    assert all("ETA" in line for line in lines if line.startswith("step 2"))


def test_the_live_line_shows_step_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=screen, force_terminal=True, width=120, highlight=False))
    with progress.progress_display() as display:
        display.show(Event("start", 0, {"num_steps": 4}))
        for step in (1, 2, 3):
            display.show(Event("step", step, STEP))
        display.show(Event("eval", 3, {"eval_loss": 1.25}))
    seen = screen.getvalue()
    assert "validation loss 1.2500 after step 3" in seen
    assert re.search(r"training.*3/4.*loss 2\.500 · 1,234 tokens/s.*\d:\d\d:\d\d", seen)


START = (
    Event("doing", 0, {"what": "starting workers"}),
    Event("phase", 0, {"name": "wait for the driver's checks", "seconds": 1.0}),
    Event("phase", 0, {"name": "describe", "seconds": 2.0}),
    Event("phase", 0, {"name": "load", "seconds": 3.0}),
    Event("phase", 0, {"name": "quantize", "seconds": 2.5}),
    Event("phase", 0, {"name": "place", "seconds": 0.5}),
)


def test_plain_lines_say_what_goes_on_before_it_is_over(capsys: pytest.CaptureFixture[str]):
    display = PlainDisplay()
    for event in START:
        display.show(event)
    assert capsys.readouterr().err.splitlines() == [
        "starting workers",
        "wait for the driver's checks: 1.0 s",
        "workers look at the base",
        "describe: 2.0 s",
        "workers load, quantize and place the base",
        "load: 3.0 s",
        "quantize: 2.5 s",
        "place: 0.5 s",
    ]


@pytest.mark.parametrize(("event", "words"), [(START[0], "starting workers"), (START[1], "workers look at the base")])
def test_the_live_line_says_what_goes_on(monkeypatch: pytest.MonkeyPatch, event: Event, words: str):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=screen, force_terminal=True, width=120, highlight=False))
    with progress.progress_display() as display:
        display.show(event)
    assert words in screen.getvalue()
