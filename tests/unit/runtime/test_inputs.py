"""What a run reads on a worker, and the digests it is known by."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.tokenizer import load_tokenizer, tokenizer_digest
from raylora.runtime.inputs import Inputs
from raylora.train.sample import answer
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec, write_chats


def test_the_tokenizers_digest_does_not_depend_on_sample_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    save_base(tmp_path / "base")
    write_chats(tmp_path / "rows.jsonl", 20)
    spec = tiny_spec(tmp_path / "base", tmp_path / "rows.jsonl")
    inputs = Inputs.open(spec)
    answer(build_tiny(spec), 0, inputs.tokenizer, ["the model", "0 1 2"], 2)
    assert tokenizer_digest(inputs.tokenizer) != inputs.tokenizer_digest, "it pads now"
    assert inputs.tokenizer_digest == tokenizer_digest(load_tokenizer(tmp_path / "base"))
