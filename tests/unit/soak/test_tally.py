"""The soak's table: how often each fault struck, and what was lost where it did."""

from __future__ import annotations

from tests.soak.tally import Tally


def test_what_was_lost_is_told_of_each_fault_that_struck_in_that_round():
    tally = Tally()
    tally.know(["a", "b", "c", "d", "e", "f"])
    tally.add({"a": 2, "b": 1}, [], {"a": 1}, ["b", "e"])
    tally.add({"a": 1, "c": 3, "d": 0}, ["tokens", "adapter"], {"a": 1, "d": 1}, ["b", "e"])
    assert tally.table().splitlines()[2:] == [
        "| a | 3 | 2 | 0 | adapter, tokens |",
        "| b | 1 | 0 | 2 | nothing |",
        "| c | 3 | 0 | 0 | adapter, tokens |",
        "| d | 0 | 1 | 0 | it did not strike |",
        "| e | 0 | 0 | 2 | it found nothing to strike |",
        "| f | 0 | 0 | 0 | its turn did not come |",
        "soak: rounds 2, of which other than undisturbed 1",
    ]


def test_a_soak_is_good_where_there_were_rounds_and_all_were_as_undisturbed():
    tally = Tally()
    assert not tally.is_as_undisturbed
    tally.add({"a": 1}, [], {}, [])
    assert tally.is_as_undisturbed
    tally.add({}, ["adapter"], {}, [])
    tally.add({"a": 1}, [], {}, [])
    assert not tally.is_as_undisturbed
