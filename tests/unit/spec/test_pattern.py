"""Names that a pattern matches, and patterns that would look for them without end."""

from __future__ import annotations

from itertools import repeat

import pytest
import regex

from raylora.spec.pattern import matching

RUNS_AWAY = r"(?:.|..|...)*(?<=z)"


def test_whole_names_are_matched_in_their_order():
    assert matching("a+", ["aa", "b", "a", "ab", "ba"], 60) == ["aa", "a"]


def test_a_pattern_that_backtracks_without_end_is_stopped():
    with pytest.raises(TimeoutError, match="regex timed out"):
        matching(RUNS_AWAY, ["model.layers.0.self_attn.q_proj.and.some.more"], 0.05)


def test_the_time_is_for_all_names_together():
    with pytest.raises(TimeoutError, match="regex timed out"):
        matching("a*b", repeat("aaa"), 0.05)  # each at once, and there is always another


def test_what_is_no_pattern_is_told():
    with pytest.raises(regex.error):
        matching("(", ["a"], 60)
