from __future__ import annotations

import re
from pathlib import Path

import pytest

from raylora.spec.pages.template import commented_config
from raylora.spec.reading.catalog import GROUPS
from tests.unit.spec.specs import load_text

TEXT = commented_config("org/model", "rows.jsonl")


def test_it_loads_as_it_stands(tmp_path: Path):
    loaded = load_text(tmp_path, TEXT)
    assert loaded.notes == ()
    assert loaded.spec.base_model == "org/model"
    assert [dataset.path for dataset in loaded.spec.datasets] == ["rows.jsonl"]
    assert loaded.spec.quantization == "nf4"


def test_every_default_behind_a_hash_is_the_default(tmp_path: Path):
    bare = re.sub(r"^( *)#(?=\S)", r"\1", TEXT, flags=re.MULTILINE)
    assert bare != TEXT
    assert load_text(tmp_path, bare).spec == load_text(tmp_path, TEXT).spec


def test_every_field_is_in_it_under_its_description():
    for group in GROUPS:
        for name, field in group.fields.items():
            assert re.search(rf"^ *(?:- |#)?{name}:", TEXT, flags=re.MULTILINE), name
            assert (field.description or "?").split()[0] in TEXT


def test_allowed_words_are_in_it():
    assert "# Shape of the learning rate after warm-up. One of: linear, cosine, constant, warmup_stable_decay." in TEXT


def test_pairs_of_answers_and_another_kind_of_adapter_are_two_lines_away(tmp_path: Path):
    assert "    # type: Shape of a row: `chat` (messages, tools)," in TEXT
    text = TEXT.replace("    type: chat\n", "    type: preference\n")
    for name, word in (("rl", "dpo"), ("adapter", "vera")):
        text, num_changed = re.subn(rf"^#{name}: .*$", f"{name}: {word}", text, flags=re.MULTILINE)
        assert num_changed == 1
    spec = load_text(tmp_path, text).spec
    assert (spec.rl, spec.adapter, spec.datasets[0].type) == ("dpo", "vera", "preference")


def test_lines_are_short():
    assert max(map(len, TEXT.splitlines())) <= 110


@pytest.mark.parametrize("odd", ["1e5", "no", "null", "a: b", "#x", "- a", "'", '"', "é", "C:\\models\\x", " a ", "{}"])
def test_odd_names_are_quoted(tmp_path: Path, odd: str):
    spec = load_text(tmp_path, commented_config(odd, odd)).spec
    assert (spec.base_model, spec.datasets[0].path) == (odd, odd)
