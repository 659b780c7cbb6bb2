from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylora.spec.text.yaml_text import read_yaml, write_yaml
from tests.unit.spec.specs import words

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | words | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("~", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("&a x", "x"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: Any):
    document = read_yaml(f"key: {text}")
    assert document.problems == []
    assert document.values["key"] == value
    assert type(document.values["key"]) is type(value)


def test_lines_are_those_of_keys_and_items():
    document = read_yaml("a: 1\n\nb:\n  - x\n  - c: {d: 2,\n      e: 3}\n")
    assert document.values == {"a": 1, "b": ["x", {"c": {"d": 2, "e": 3}}]}
    assert document.lines == {
        ("a",): 1,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("b", 1, "c", "d"): 5,
        ("b", 1, "c", "e"): 6,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a: given twice, first in line 1"),
        ("a: [1\n", "line 2: YAML:"),
        ("a: b: c", "line 1: YAML: mapping values are not allowed here"),
        ("a:\n\tb: 1", "line 2: YAML:"),
        ("\ta: 1", "indent with spaces, not tabs"),
        ("a: *nowhere", "line 1: YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "line 2: YAML:"),
        ("a: ok\nb: \x00", "line 2: YAML: the character U+0000 is not allowed here"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: a: the tag"),
        ("a: !!int five", "line 1: a: the tag"),
        ("1: x", "line 1: YAML: a key must be text"),
        ("a: {? [1] : 2}", "line 1: a: a key must be text"),
        ("a: &x [*x]", "an anchor that contains itself"),
        ("a: " + "[" * 1000, "nested too deeply"),
        ('a: "\\U00110000"', "a character or number that cannot be read"),
        ('a: "\\ud800"', "line 1: a: '\\ud800' is no text: it holds half a character"),
        ("a: 9223372036854775808", "line 1: a: 9223372036854775808 does not fit in 64 bits"),
        ("a: " + "9" * 5000, "does not fit in 64 bits"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, said: str):
    assert any(said in str(problem) for problem in read_yaml(text).problems)


def test_anchors_that_multiply_are_refused():
    levels = "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9))
    document = read_yaml(f"a0: &a0 x\n{levels}\n")
    assert "more than 10,000 values" in str(document.problems[0])


@settings(deadline=None)
@given(st.text())
@example("%YAML 99999.1\n---\na: 1")
@example('"\\UFFFFFFFF"')
@example("{? ")
def test_no_text_raises(text: str):
    document = read_yaml(text)
    assert not document.refused or document.problems


@settings(deadline=None)
@given(st.dictionaries(words, plain, max_size=4))
def test_what_is_written_is_read_back(values: dict[str, Any]):
    document = read_yaml(write_yaml(values))
    assert document.problems == []
    assert document.values == values
