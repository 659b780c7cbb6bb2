"""Names that a pattern matches, and patterns that would look for them, or get ready to, without end."""

from __future__ import annotations

from itertools import repeat

import pytest
import regex

from raylora.spec.text.pattern import MAX_CHARS, matching

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


def test_nested_repeats_are_ready_at_once():
    assert matching("((a{1,999}){1,999}){1,999}", ["aaa", "b"], 60) == ["aaa"]
    assert matching(r"(\w+\.)+(q|k)_proj", ["model.layers.0.q_proj", "model.v_proj"], 60) == ["model.layers.0.q_proj"]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a" * (MAX_CHARS + 1), "it has 1,001 characters, allowed are 1,000"),
        ("((a{99}){99}){99}", "more than 10,000 parts"),
        ("(" * 40 + "a" + ")+" * 40, "more than 10,000 parts"),
        (f"{'(?>' * 40}a{')+?' * 40}", "more than 10,000 parts"),
        ("(" * 499 + "a" + ")" * 499, "nested too deep"),
        ("a{4294967296}", "too large"),
    ],
    ids=["long", "counted", "plus", "atomic", "deep", "count"],
)
def test_what_would_take_long_to_get_ready_is_refused(pattern: str, why: str):
    with pytest.raises(regex.error, match=why):
        matching(pattern, ["a"], 60)
