"""How a base is held: one word for each way, and fields that ask for it."""

from __future__ import annotations

import pytest

from raylora.spec.fields.holding import FIELDS, word_for
from raylora.spec.run import RunSpec


def spec(**fields: object) -> RunSpec:
    return RunSpec.model_validate({"base_model": "org/base", "datasets": [{"path": "rows"}], **fields})


def test_a_word_says_code_and_double_quantization():
    assert word_for(spec()) == "none"
    assert word_for(spec(load_in_8bit=True)) == "int8"
    assert word_for(spec(load_in_4bit=True)) == "nf4-double"
    assert word_for(spec(load_in_4bit=True, bnb_4bit_use_double_quant=False)) == "nf4"
    assert word_for(spec(load_in_4bit=True, bnb_4bit_quant_type="fp4")) == "fp4-double"


@pytest.mark.parametrize("word", FIELDS)
def test_the_fields_of_a_word_ask_for_it(word: str):
    assert word_for(spec(**FIELDS[word])) == word
