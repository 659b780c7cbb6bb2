"""When a sweep opens a pack, closes one, or lets its leases wait."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from raylora.spec.run import RunSpec
from raylora.sweep.openings import Closing, Opening, next_move
from raylora.sweep.planning.berths import Berth

SPEC = RunSpec.model_validate({"base_model": "base", "datasets": [{"path": "rows.jsonl"}]})


NUM_SLOTS = 4


def berth(family: str, num_packs: int) -> Berth:
    return Berth(SPEC, family, num_packs, NUM_SLOTS, slots_stay_on_ranks=False, calibrates=True)


BERTHS = {
    "short": berth("short", 2),
    "long": berth("long", 1),
    "alone-1": berth("alone", 1),
    "alone-2": berth("alone", 1),
}


@pytest.mark.parametrize(
    ("key", "packs", "held", "has_room", "move"),
    [
        ("short", {}, {}, True, Opening()),
        ("short", {0: "short"}, {0: 4}, True, Opening()),
        ("short", {0: "short"}, {0: 4}, False, None),
        ("short", {0: "short"}, {}, True, None),
        ("short", {0: "short", 1: "short"}, {0: 4, 1: 4}, True, None),
        ("short", {0: "long"}, {0: 0}, True, Opening()),
        ("short", {0: "long"}, {0: 0}, False, Closing(0)),
        ("short", {0: "long"}, {0: 1}, False, None),
        ("short", {0: "short", 1: "short", 2: "long"}, {0: 4, 1: 4, 2: 0}, False, None),
        ("short", {0: "short"}, {0: 0}, False, None),
        ("alone-2", {0: "alone-1"}, {0: 1}, True, None),
        ("alone-2", {0: "alone-1"}, {0: 0}, True, Closing(0)),
        ("alone-2", {0: "long"}, {0: 4}, True, Opening()),
        ("short", {0: "long"}, {}, True, Opening()),
    ],
    ids=[
        "the first",
        "a second that was planned",
        "no core is free",
        "one is starting",
        "all that were planned are there",
        "there is room beside an idle one",
        "an idle one makes room",
        "one in use does not",
        "an idle one of others would not help",
        "an idle one of its own is not closed",
        "those that share with nobody are counted together",
        "one of them that has ended makes room for the next",
        "others are not counted",
        "one of others that is starting is not waited for",
    ],
)
def test_the_next_move(
    key: str, packs: Mapping[int, str], held: Mapping[int, int], has_room: bool, move: Opening | Closing | None
):
    assert next_move(key, NUM_SLOTS, BERTHS, packs, held, has_room) == move


@pytest.mark.parametrize(("num_lacking", "move"), [(NUM_SLOTS, None), (NUM_SLOTS + 1, Opening())])
def test_a_second_one_starts_beside_the_first_where_more_wait_than_that_will_have_slots(
    num_lacking: int, move: Opening | None
):
    assert next_move("short", num_lacking, BERTHS, {0: "short"}, {}, True) == move


@pytest.mark.parametrize(
    ("packs", "held", "without_room", "move"),
    [
        ({0: "short"}, {0: 4}, set(), Opening()),
        ({0: "short", 1: "long"}, {0: 4}, {1}, None),
        ({0: "short", 1: "long"}, {0: 0}, {1}, Closing(0)),
        ({0: "short", 1: "long"}, {0: 0}, set(), None),
        ({0: "short", 1: "long"}, {0: 0, 1: 4}, set(), None),
    ],
    ids=[
        "nodes are asked for",
        "which may take their time",
        "those that are there may be free first",
        "nothing makes way for one that loads in its room",
        "or trains there",
    ],
)
def test_the_next_move_where_nodes_may_come(
    packs: Mapping[int, str], held: Mapping[int, int], without_room: set[int], move: Opening | Closing | None
):
    assert next_move("long", 1, BERTHS, packs, held, False, may_grow=True, without_room=without_room) == move


@pytest.mark.parametrize(("idle", "move"), [(0, Closing(1)), (1, None)])
def test_one_that_opened_meanwhile_makes_room_once_it_is_idle(idle: int, move: Closing | None):
    """Somebody else's job held the room of the first pack, and has ended since."""
    packs, held = {0: "long", 1: "short"}, {1: idle}
    assert next_move("long", 1, BERTHS, packs, held, False, without_room={0}) == move
