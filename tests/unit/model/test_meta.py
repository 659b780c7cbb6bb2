"""meta_model: same tree, shapes, buffers and ties as the real model, and nothing allocated; read_config: refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    T5Config,
)

from raylora.errors import ModelError
from raylora.model.meta import meta_model, read_config

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "intermediate_size": 96}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS = [
    LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False),
    GPTNeoXConfig(**SMALL, num_attention_heads=4),
    GemmaConfig(**SMALL, **HEADS),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["llama-tied", "llama", "neox", "gemma"])
def test_meta_model_is_the_real_model_without_weights(config: PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    meta = meta_model(read_config(tmp_path), torch.bfloat16)
    real = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shapes = {name: (p.shape, p.dtype) for name, p in real.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in meta.named_parameters()} == shapes
    assert all(p.is_meta for p in meta.parameters())
    meta_buffers = dict(meta.named_buffers())
    assert meta_buffers.keys() == dict(real.named_buffers()).keys()
    for name, buffer in real.named_buffers():
        torch.testing.assert_close(meta_buffers[name], buffer, rtol=0, atol=0)
    tied = meta.get_output_embeddings().weight is meta.get_input_embeddings().weight
    assert tied == (real.get_output_embeddings().weight is real.get_input_embeddings().weight)
    assert meta.config._attn_implementation == "sdpa"


def test_meta_model_leaves_the_config_as_it_was() -> None:
    config = LlamaConfig(**SMALL, **HEADS)
    before = config.to_dict()
    meta_model(config, torch.float16)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (T5Config(architectures=["T5ForConditionalGeneration"]), "no decoder-only language model"),
        (BertConfig(architectures=["BertForMaskedLM"]), "published as BertForMaskedLM"),
        (LlamaConfig(architectures=["LlamaForSequenceClassification"]), "published as LlamaForSequenceClassification"),
    ],
    ids=["encoder-decoder", "encoder", "classifier"],
)
def test_a_model_that_cannot_continue_a_text_is_refused(config: PretrainedConfig, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        meta_model(config, torch.float32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no config.json"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        (json.dumps({"model_type": "nonesuch"}), "model_type 'nonesuch'"),
        (json.dumps({"model_type": "nonesuch", "auto_map": {"AutoConfig": "a.B"}}), "needs Python code"),
        (json.dumps({"model_type": "clip", "auto_map": {"AutoModelForCausalLM": "a.B"}}), "needs Python code"),
        (json.dumps({"model_type": "llama", "hidden_size": "wide"}), "cannot read .*hidden_size"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        read_config(tmp_path)


def test_auto_map_beside_a_native_class_runs_the_native_class(tmp_path: Path) -> None:
    fields = LlamaConfig(**SMALL, **HEADS).to_dict() | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran code of the folder')")
    assert type(meta_model(read_config(tmp_path), torch.float32)).__module__.startswith("transformers.")
