"""A plan on a terminal and as JSON: every figure of it, made up so that each is told from the others."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from raylora.cli.plan import print_plan
from raylora.spec.run import RunSpec
from raylora.sweep.planning.duration import Duration
from raylora.sweep.planning.plan import Group, Plan
from raylora.sweep.planning.width import Width
from raylora.train.prediction.estimate import Estimate, RankBytes
from raylora.train.prediction.pack_memory import SlotBytes
from tests.unit.cli.terminal import cells

MB = 10**6
RANK = RankBytes(168 * MB, 5 * MB, 80 * MB, 81 * MB, 160 * MB, 1255 * MB, 72 * MB, 0, 0, 2110 * MB, 1900 * MB)


def group(**fields: object) -> Group:
    run = RunSpec.model_validate({"base_model": "b", "datasets": [{"path": "rows"}], "sequence_len": 192})
    given: dict[str, object] = {
        "largest": run,
        "num_trials": 24,
        "num_packs": 3,
        "num_places": 4,
        "width": Width(8, 8, False, "the 24 trials are shared out over 3 packs", "one worker holds the base"),
        "why_alone": None,
        "memory": Estimate("ddp", "cpu", "float32", 100, 1000, (RANK,)),
        "slot": SlotBytes(10 * MB, 11 * MB, 20 * MB),
        "bytes_per_worker": 9000 * MB,
        "duration": Duration(25.0, 600.0, 90.0, 12, 345.0, 1.37, 2400.0),
        "why_no_duration": None,
    }
    return Group(**{**given, **fields})  # type: ignore[arg-type]


ALONE = group(
    num_packs=1,
    num_places=0,
    num_trials=2,
    width=Width(1, 1, False, "even one trial needs 3.00 GB", "one worker holds the base"),
    why_alone="adapter_bank: peft holds one adapter",
    bytes_per_worker=1000 * MB,
    duration=None,
    why_no_duration="num_epochs says how long",
)


def shown(plan: Plan, width: int = 120) -> str:
    screen = io.StringIO()
    print_plan(plan, console=Console(file=screen, width=width))
    return screen.getvalue()


def test_every_figure_is_in_the_table() -> None:
    text = shown(Plan((group(),), 715.0, False))
    rows = {row[0]: row[1:] for row in cells(text) if len(row) > 1}
    for name, cell in {
        "trials": "24",
        "packs at once": "3",
        "trials at once in a pack": "8",
        "sequence_len": "192",
        "a worker's base": "168.0 MB",
        "each trial more": "41.0 MB",
        "activations of its trials": "1,255.0 MB",
        "peak, all at once": "2,110.0 MB",
        "held at most": "3,081.0 MB",
        "memory allowed": "9,000.0 MB",
        "steps of a trial": "12",
        "predicted training": "10 min",
        "predicted tokens/s of a pack": "345",
        "one trial after the other": "40 min",
    }.items():
        assert rows[name] == [cell]
    assert "gathered from others" not in rows
    assert "a pack is one group of workers" in text
    assert "group 1: 8 trials at once in a pack: the 24 trials are shared out over 3 packs" in text
    assert "predicted: 12 min for the sweep" in text and "Nothing was started" in text


def test_what_runs_alone_or_may_not_fit_says_why() -> None:
    text = shown(Plan((group(), ALONE), None, True))
    assert "group 2: each trial runs alone: adapter_bank: peft holds one adapter" in text
    assert "group 2: memory: even one trial needs 3.00 GB" in text
    assert "group 2: workers: 1 are asked for, and there is room for 0: they are waited for where" in text
    assert "group 1: workers" not in text
    assert "group 2: no predicted time: num_epochs says how long" in text
    assert "predicted: no time" in text
    assert "groups take turns" in text


def test_a_width_that_is_predicted_to_be_slow_is_told() -> None:
    slow = group(duration=Duration(25.0, 600.0, 90.0, 12, 345.0, 0.87, 2400.0))
    assert "slower than fewer" in shown(Plan((slow,), 715.0, False))
    assert "slower than fewer" not in shown(Plan((group(),), 715.0, False))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_figures_are_not_cut_on_a_terminal_of_any_width(width: int) -> None:
    assert "2,110.0 MB" in shown(Plan((group(), ALONE), 715.0, False), width)


@pytest.mark.parametrize("width", [80, 120])
def test_sentences_break_between_words(width: int) -> None:
    text = shown(Plan((group(), ALONE), 715.0, True), width)
    assert max(map(len, text.splitlines())) <= width
    assert "predicted: 12 min for the sweep if no trial is stopped early" in " ".join(text.split())


def test_json_is_one_object_with_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    print_plan(Plan((group(), ALONE), 715.0, False), as_json=True)
    told = json.loads(capfd.readouterr().out)
    assert (told["num_packs"], told["predicted_s"]) == (3, 715.0)
    first, second = told["groups"]
    assert (first["num_slots"], first["slot_bytes"]["num_bytes"], first["predicted"]["seconds"]) == (8, 41 * MB, 715.0)
    assert (first["held_bytes"], first["bytes_per_worker"], first["fits"]) == (3081 * MB, 9000 * MB, True)
    assert (second["why_alone"], second["fits"], second["predicted"]) == (ALONE.why_alone, False, None)
