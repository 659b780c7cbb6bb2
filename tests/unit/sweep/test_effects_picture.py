"""What the picture of each knob says about numbers that were drawn, and about few of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from raylora.sweep.reporting.effects_picture import FEW_TRIALS, draw_effects
from raylora.sweep.reporting.summary import summarise
from tests.unit.sweep.made_sweeps import sweep, trial

LOG_SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}


def words(rates: Sequence[float], folder: Path) -> list[str]:
    """The words in the picture of one knob; the greater its number, the less the loss."""
    trials = [trial(number, -rate, config={"learning_rate": rate}) for number, rate in enumerate(rates)]
    record = sweep(trials, space=LOG_SPACE)
    picture = draw_effects(record, summarise(record), folder)
    assert picture is not None
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)


def test_drawn_numbers_that_lie_close_have_a_few_round_ticks(tmp_path: Path) -> None:
    found = words([0.00021347, 0.00045812, 0.0009, 0.0011234], tmp_path)
    assert {"0.0005", "0.001"} <= set(found)
    assert not any(word.startswith("0.0002") for word in found)


@pytest.mark.parametrize(("num_trials", "is_few"), [(3, True), (FEW_TRIALS - 1, True), (FEW_TRIALS, False)])
def test_a_rank_correlation_says_of_how_many_trials_it_is(num_trials: int, is_few: bool, tmp_path: Path) -> None:
    (told,) = [word for word in words([1e-4 * (n + 1) for n in range(num_trials)], tmp_path) if "rank" in word]
    assert f"1.00, {num_trials} trials" in told
    assert ("may be chance" in told) == is_few
