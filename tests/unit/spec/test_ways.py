"""Patterns that Python's engine may take for ever with, told from those that people write for names of layers."""

from __future__ import annotations

import re

import pytest

from raylora.spec.text.ways import has_too_many_ways

NAME = "model.layers.10.self_attn.q_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|k|v|o)_proj",
        r"model\.layers\.(\d+)\.(self_attn|mlp)\..*_proj",
        r".*layers\.[0-9]{1,2}\.mlp\.(gate|up|down)_proj",
        r"(?!.*lm_head).*proj",
        "(",
    ],
)
def test_what_people_write_is_let_pass(pattern: str):
    assert not has_too_many_ways(pattern, len(NAME))


@pytest.mark.parametrize(
    "pattern",
    [r"((\w|\.)+)+Z", "(a|a)*Z", "(a?){40}b", ".*" * 12 + "Z", "(.*)*Z", "a?" * 40 + "Z", "(" * 2000 + ")" * 2000],
)
def test_what_has_too_many_ways_is_told(pattern: str):
    assert has_too_many_ways(pattern, len(NAME))


def test_what_is_let_pass_comes_to_an_end_on_the_worst_of_names():
    pattern, name = ".*a.*a.*Z", "a" * 60
    assert not has_too_many_ways(pattern, len(name))
    assert re.fullmatch(pattern, name) is None
