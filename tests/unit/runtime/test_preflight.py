"""What the checks before a run refuse that no other test reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from raylora.errors import ModelError
from raylora.model.base.load import base_on_meta, load_base
from raylora.model.base.meta import read_config
from raylora.runtime.preflight import preflight
from tests.unit.model.tiny import save_tiny, spec_of


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of home, rows and store."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    rows = [{"path": str(tmp_path / "rows.jsonl"), "type": "text"}]
    return {"storage": {"uri": str(tmp_path / "store")}, "datasets": rows}


def test_bins_are_refused_for_a_base_with_a_short_window(tmp_path: Path, places: dict[str, Any]):
    save_tiny(tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mistral"').replace("{", '{"sliding_window": 6,', 1))
    spec = spec_of(tmp_path / "base", sample_packing=True, sequence_len=16, **places)
    with pytest.raises(ModelError, match=r"^sample_packing: .*sliding_window: 6.*Set sample_packing: false$"):
        preflight(spec)


def test_a_head_that_is_not_the_embedding_it_is_tied_to_is_refused(tmp_path: Path, places: dict[str, Any]):
    """As transformers reads it, until the config says that it is not."""
    folder = tmp_path / "base"
    save_tiny(folder, tie_word_embeddings=True)
    file, config = folder / "model.safetensors", folder / "config.json"
    kept = {name: tensor.clone() for name, tensor in load_file(file).items()}
    head = kept["model.embed_tokens.weight"] + 1
    save_file({**kept, "lm_head.weight": head}, file, {"format": "pt"})
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder).lm_head.weight, head)
    spec = spec_of(folder, **places)
    with pytest.raises(ModelError, match=r"lm_head.weight are one, .* set tie_word_embeddings: false in config.json$"):
        preflight(spec)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    preflight(spec)
    model = base_on_meta(read_config(folder), spec, torch.float32)
    load_base(model, folder, torch.device("cpu"), lambda part: None)
    assert torch.equal(model.lm_head.weight, head)
