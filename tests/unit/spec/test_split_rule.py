"""What may be split where it is too long, and what the refusals say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.spec.specs import LEAST, load_text, problems_of

SPLIT = "excess_length_strategy: split\n"
TEXTS = "base_model: org/model\ndatasets: [{path: rows.jsonl, type: text}]\n" + SPLIT


def test_texts_are_split(tmp_path: Path):
    assert load_text(tmp_path, TEXTS + "sequence_len: 3\nsample_packing: true\ntrain_on_inputs: true")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAST + SPLIT, "got split with datasets of type chat; only those of type text are split, since a piece"),
        (
            TEXTS + "test_datasets: [{path: a, type: completion}, {path: b, type: alpaca}]",
            "type alpaca, completion; only those of type text are split, since a piece of another row would stand "
            "without its question, or without its answer: set truncate, drop or raise",
        ),
        (
            TEXTS + "sequence_len: 2",
            "got split with sequence_len: 2, whose pieces teach nothing; raise it to 3 or more",
        ),
    ],
)
def test_what_is_no_text_is_not_split(tmp_path: Path, text: str, said: str):
    (problem,) = problems_of(tmp_path, text)
    assert said in problem
