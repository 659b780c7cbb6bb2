from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.spec.reading.draft import Draft
from raylora.spec.reading.overrides import apply_override
from raylora.spec.text.yaml_text import read_yaml
from raylora.sweep.reporting.effects import key_of
from raylora.sweep.reporting.scales import MAX_LOG_TICKS, is_log, log_ticks, scale_of, tick_text
from raylora.sweep.reporting.words import MAX_LABEL, config_text, knob_labels, label, labels, large, number, span

VALUES = st.one_of(
    st.booleans(), st.none(), st.text(max_size=40), st.lists(st.sampled_from(["q_proj", "v", "up_proj"]))
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.2346"),
        (0.0, "0.0000"),
        (-0.5, "\u22120.5000"),
        (1e-7, "1e\u221207"),
        (None, "\u2013"),
        (2e6, "2e+06"),
    ],
)
def test_numbers(value: float | None, text: str):
    assert number(value) == text


def test_counts_and_times():
    assert [large(n) for n in (None, 7, 4_884_480, 1_500, 2 * 10**9)] == ["\u2013", "7", "4.88M", "1.5k", "2G"]
    assert [span(s) for s in (3, 90, 780, 36_000)] == ["3 s", "90 s", "13 min", "10.0 h"]


@pytest.mark.parametrize(
    ("value", "short"),
    [
        (["q_proj", "v_proj"], "q, v"),
        (["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "q, k, v, o, gate +2"),
        (r".*\.(up|down)_proj$", r".*\.(up|down)_proj$"),
        ("x" * 60, "x" * (MAX_LABEL - 1) + "\N{HORIZONTAL ELLIPSIS}"),
        (0.000123456, "0.0001235"),
        (True, "true"),
    ],
)
def test_a_label_is_short(value: Any, short: str):
    assert label(value) == short


@given(st.lists(VALUES, max_size=12))
def test_no_two_values_share_a_label(values: list[Any]):
    short = labels(values)
    assert short.keys() == {key_of(value) for value in values}
    assert len(set(short.values())) == len(short)


def test_knobs_go_by_their_last_part_while_that_says_which():
    assert knob_labels(["lora_r", "distributed.num_workers"]) == {
        "lora_r": "lora_r",
        "distributed.num_workers": "num_workers",
    }
    assert knob_labels(["a.x", "b.x"]) == {"a.x": "a.x", "b.x": "b.x"}


def test_a_configuration_is_written_as_set_takes_it():
    config = {"lora_r": 8, "learning_rate": 2e-4, "lora_target_modules": ["q_proj", "v_proj"], "load_in_4bit": True}
    draft = Draft(read_yaml("").values or {})
    for word in config_text(config).split(" "):
        apply_override(draft, word)
    assert draft.values == config


def test_a_scale_places_numbers_by_size_or_ratio_and_words_apart():
    assert [scale_of([0, 5, 10]).place(value) for value in (0, 5, 10)] == [0, 0.5, 1]
    ratios = scale_of([4, 8, 64])
    assert ratios.log
    assert [ratios.place(value) for value in (4, 16, 64)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in ratios.ticks] == ["4", "8", "64"]
    words = scale_of(["a", ["b", "c"], "a"])
    assert [words.place(value) for value in ("a", ["b", "c"])] == [0.25, 0.75]
    assert scale_of([3, 3]).place(3) == 0.5
    assert not is_log([0.0, 8.0])


def test_what_was_drawn_by_ratio_stands_by_ratio_however_close():
    assert scale_of([2.0, 4.0, 8.0], drawn_by_ratio=True).place(4.0) == pytest.approx(0.5)
    assert scale_of([2.0, 4.0, 8.0]).place(4.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.00021, 0.0011, ["0.0005", "0.001"]),
        (1e-4, 1e-2, ["0.0001", "0.001", "0.01"]),
        (0.00006, 0.009, ["0.0001", "0.0003", "0.001", "0.003"]),
        (0.00021, 0.00023, ["0.00021", "0.00023"]),
        (1e-9, 1.0, ["1e-09", "1e-06", "0.001", "1"]),
    ],
)
def test_a_logarithmic_axis_has_a_few_round_numbers(low: float, high: float, ticks: list[str]):
    found = log_ticks(low, high)
    assert [tick_text(value) for value in found] == ticks
    assert 2 <= len(found) <= MAX_LOG_TICKS
