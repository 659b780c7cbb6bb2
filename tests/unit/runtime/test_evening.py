"""Slots at home on ranks: a run moves to a rank that has none, and is what it would have been where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from raylora.runtime.pack.evening import Move, due_move
from tests.contract.strategy_group import run_group
from tests.unit.runtime.evening_worker import MOVED, NUM_STEPS
from tests.unit.train.tiny_run import save_materials


@pytest.mark.parametrize(
    ("owners", "num_ranks", "move"),
    [
        ({}, 2, None),
        ({"a": 0}, 2, None),
        ({"a": 0, "b": 1, "c": 0}, 2, None),
        ({"a": 0, "b": 0}, 2, Move("b", 1)),
        ({"a": 1, "b": 2, "c": 2, "d": 1}, 3, Move("d", 0)),
        ({"a": 3, "b": 3, "c": 3}, 4, Move("c", 0)),
    ],
    ids=["nobody", "one alone", "all have some", "one of two", "the first of the fullest ranks", "the first idle rank"],
)
def test_a_run_moves_to_a_rank_that_has_none(owners: Mapping[str, int], num_ranks: int, move: Move | None):
    assert due_move(owners, num_ranks) == move


def test_where_one_cannot_be_taken_in_another_moves():
    assert due_move({"a": 0, "b": 0}, 2, {"b"}) == Move("a", 1)
    assert due_move({"a": 0, "b": 0}, 2, {"a", "b"}) is None


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """What each of two ranks told, of runs that moved and of the same runs where they were."""
    folder = save_materials(tmp_path_factory.mktemp("evening"), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYLORA_HOME", str(folder / "home"))
        last_words = run_group(folder, program="tests.unit.runtime.evening_worker")
    files = {name: folder / f"{name}.json" for name in ("moved", "stayed", "refused")}
    assert all(file.exists() for file in files.values()), "\n---\n".join(last_words)
    return {name: json.loads(file.read_text()) for name, file in files.items()}


@pytest.mark.slow
def test_a_run_that_moved_is_the_run_that_stayed(heard: dict[str, list[dict[str, object]]]):
    """By the bit: losses, adapter and the checkpoint that it is asked for after the move."""
    moved, stayed = heard["moved"], heard["stayed"]
    assert [told["ranks"] for told in (moved, stayed)] == [[0, 1, 1], [0, 1, 0]]
    for part in ("losses", "adapters", "saved", "steps"):
        assert moved[part] == stayed[part], part
    assert moved["steps"] == NUM_STEPS
    assert moved["begun"] == stayed["begun"] == [1, 1, 1], "nobody is told of a run anew"


@pytest.mark.slow
def test_a_run_that_cannot_be_taken_in_stays_and_another_moves(heard: dict[str, list[dict[str, object]]]):
    refused, stayed = heard["refused"], heard["stayed"]
    assert refused["ranks"] == [1, 1, 0]
    assert refused["asked"] == [MOVED]
    assert refused["adapters"] == stayed["adapters"]
