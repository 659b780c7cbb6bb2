"""Each fault of the soak strikes once before any strikes again, in the order of a seed; what cannot strike waits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import cast

from tests.soak.deck import Deck
from tests.soak.scene import Scene, Strike, Struck

NAMES = ("cut off", "killed", "stopped")


class UnderWay:
    is_under_way = True


class Over:
    is_under_way = False


def strikes(deck: Deck, faults: Mapping[str, Strike], scene: object = UnderWay) -> str | None:
    found = deck.strike(faults, cast("Scene", scene))
    return None if found is None else found[0]


def once(scene: Scene) -> Struck:
    return lambda: 1


def nothing_there(scene: Scene) -> None:
    return None


def order(seed: int) -> list[str | None]:
    deck = Deck(random.Random(seed))
    return [strikes(deck, dict.fromkeys(NAMES, once)) for _ in range(4 * len(NAMES))]


def test_each_strikes_once_before_any_strikes_again():
    found = order(seed=3)
    assert all(sorted(map(str, found[start : start + 3])) == sorted(NAMES) for start in range(0, len(found), 3))


def test_a_seed_is_an_order():
    assert order(seed=3) == order(seed=3)
    assert len({tuple(order(seed)) for seed in range(8)}) > 1


def test_what_finds_nothing_to_strike_is_the_first_to_strike_when_it_does():
    for seed in range(8):
        deck, faults = Deck(random.Random(seed)), dict.fromkeys(NAMES, once)
        assert strikes(deck, faults | {"killed": nothing_there}) in ("cut off", "stopped")
        assert strikes(deck, faults | {"killed": nothing_there}) in ("cut off", "stopped")
        assert strikes(deck, faults) == "killed"


def test_what_had_its_turn_and_found_nothing_is_known():
    deck, faults = Deck(random.Random(0)), dict.fromkeys(NAMES, once)
    for _ in range(2 * len(NAMES)):
        strikes(deck, faults | {"killed": nothing_there})
    assert deck.take_passed_over() == {"killed"}
    assert deck.take_passed_over() == set()


def test_what_found_nothing_and_struck_after_all_is_not_told():
    deck, faults = Deck(random.Random(0)), dict.fromkeys(NAMES, once)
    for _ in range(2 * len(NAMES)):
        strikes(deck, faults | {"killed": nothing_there})
    assert strikes(deck, faults) == "killed"
    assert deck.take_passed_over() == set()


def test_nothing_strikes_where_nothing_can_or_all_is_over():
    deck = Deck(random.Random(0))
    assert strikes(deck, dict.fromkeys(NAMES, nothing_there)) is None
    assert strikes(deck, dict.fromkeys(NAMES, once), Over) is None
