"""A plan on a terminal and as JSON: every figure of it, made up so that each is told from the others."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from raylora.cli.plan import print_plan
from raylora.spec.run import RunSpec
from raylora.sweep.duration import Duration
from raylora.sweep.plan import Group, Plan
from raylora.sweep.width import Width
from raylora.train.estimate import Estimate, RankBytes
from raylora.train.pack_memory import SlotBytes
from tests.unit.cli.test_tables import cells

MB = 10**6
RANK = RankBytes(168 * MB, 5 * MB, 80 * MB, 81 * MB, 160 * MB, 1255 * MB, 72 * MB, 0, 0, 2110 * MB)


def group(**fields: object) -> Group:
    run = RunSpec.model_validate({"base_model": "b", "datasets": [{"path": "rows"}], "sequence_len": 192})
    given: dict[str, object] = {
        "largest": run,
        "num_trials": 24,
        "num_packs": 3,
        "width": Width(8, 8, False, "there are 24 trials for 3 pack(s)", "one worker holds the base and all slots"),
        "why_alone": None,
        "memory": Estimate("ddp", "cpu", "float32", 100, 1000, (RANK,)),
        "slot": SlotBytes(10 * MB, 11 * MB, 20 * MB),
        "bytes_per_worker": 9000 * MB,
        "duration": Duration(25.0, 600.0, 90.0, 12, 345.0, 1.37),
        "why_no_duration": None,
    }
    return Group(**{**given, **fields})  # type: ignore[arg-type]


ALONE = group(
    num_packs=1,
    num_trials=2,
    width=Width(1, 1, False, "even one slot needs 3.00 GB", "one worker holds the base and all slots"),
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
        "slots of a pack": "8",
        "sequence_len": "192",
        "a worker's base": "168.0 MB",
        "each slot more": "41.0 MB",
        "activations of all slots": "1,255.0 MB",
        "peak, all slots filled": "2,110.0 MB",
        "memory allowed": "9,000.0 MB",
        "predicted steps": "10 min",
        "predicted tokens/s of a pack": "345",
        "predicted over trials alone": "1.37x",
    }.items():
        assert rows[name] == [cell]
    assert "gathered from others" not in rows
    assert "1: 8 slots: there are 24 trials for 3 pack(s)" in text
    assert "predicted: 12 min for the sweep" in text and "Nothing was started" in text


def test_what_runs_alone_or_may_not_fit_says_why() -> None:
    text = shown(Plan((group(), ALONE), None, True))
    assert "2: alone: adapter_bank: peft holds one adapter" in text
    assert "2: memory: even one slot needs 3.00 GB" in text
    assert "2: no predicted time: num_epochs says how long" in text
    assert "predicted: no time" in text
    assert "groups take turns" in text


def test_a_width_that_is_predicted_to_be_slow_is_told() -> None:
    slow = group(duration=Duration(25.0, 600.0, 90.0, 12, 345.0, 0.87))
    assert "slower than trials alone" in shown(Plan((slow,), 715.0, False))
    assert "slower than trials alone" not in shown(Plan((group(),), 715.0, False))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_figures_are_not_cut_on_a_terminal_of_any_width(width: int) -> None:
    assert "2,110.0 MB" in shown(Plan((group(), ALONE), 715.0, False), width)


def test_json_is_one_object_with_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    print_plan(Plan((group(), ALONE), 715.0, False), as_json=True)
    told = json.loads(capfd.readouterr().out)
    assert (told["num_packs"], told["predicted_s"]) == (3, 715.0)
    first, second = told["groups"]
    assert (first["num_slots"], first["slot_bytes"]["num_bytes"], first["predicted"]["seconds"]) == (8, 41 * MB, 715.0)
    assert (second["why_alone"], second["fits"], second["predicted"]) == (ALONE.why_alone, False, None)
