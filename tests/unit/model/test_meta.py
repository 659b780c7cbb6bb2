"""meta_model: same tree, shapes, buffers and ties as the real model, and nothing allocated; read_config: refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CpmAntConfig,
    DebertaV2Config,
    DebertaV2ForTokenClassification,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    XLMConfig,
    XLNetConfig,
)

from raylora.errors import ModelError
from raylora.model.base.meta import meta_model, read_config
from raylora.spec.fields.task import TaskFields

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
        (BertConfig(architectures=["BertLMHeadModel"]), "is_decoder: false.*set is_decoder: true"),
        (RobertaConfig(is_decoder=False), "is_decoder: false.*set is_decoder: true"),
        (XLMConfig(), "causal: false.*set causal: true"),
        (XLNetConfig(architectures=["XLNetLMHeadModel"]), "sees those after it"),
    ],
    ids=["encoder-decoder", "encoder", "classifier", "bert", "roberta", "xlm", "xlnet"],
)
def test_a_model_that_cannot_continue_a_text_is_refused(config: PretrainedConfig, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        meta_model(config, torch.float32)


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("config", "is_causal"),
    [
        (BertConfig(**TINY, vocab_size=64, is_decoder=True), True),
        (BertConfig(**TINY, vocab_size=64), False),
        (GPTNeoXConfig(**TINY, vocab_size=64, is_decoder=False), True),
        (XLMConfig(emb_dim=32, n_layers=2, n_heads=2, n_words=64, causal=True), True),
        (XLMConfig(emb_dim=32, n_layers=2, n_heads=2, n_words=64), False),
        (XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=48, vocab_size=64), False),
        (CpmAntConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, dim_head=16, dim_ff=48), False),
    ],
    ids=["bert-decoder", "bert", "neox", "xlm-causal", "xlm", "xlnet", "cpmant"],
)
def test_what_sees_later_tokens_is_refused_and_nothing_else(config: PretrainedConfig, is_causal: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(5, 14)[None]
    changed = ids.clone()
    changed[0, -1] = 40
    with torch.no_grad():
        before, after = (model(input_ids=tokens, use_cache=False).logits[0, :-1] for tokens in (ids, changed))
    assert torch.allclose(before, after, atol=1e-6) == is_causal
    if is_causal:
        meta_model(config, torch.float32)
    else:
        with pytest.raises(ModelError, match=r"no causal language model.*Allowed: .*Choose such a base"):
            meta_model(config, torch.float32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no config.json"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        (json.dumps({"model_type": "nonesuch"}), "model_type 'nonesuch'"),
        (json.dumps({"model_type": "nonesuch", "auto_map": {"AutoConfig": "a.B"}}), "needs Python code"),
        (json.dumps({"model_type": "encodec", "auto_map": {"AutoModelForCausalLM": "a.B"}}), "needs Python code"),
        (json.dumps({"model_type": "llama", "hidden_size": "wide"}), "cannot read .*hidden_size"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        read_config(tmp_path)


def test_an_encoder_with_auto_map_runs_as_the_native_class(tmp_path: Path) -> None:
    """One of which transformers has classifiers, and no causal language model."""
    fields = DebertaV2Config(**TINY, vocab_size=64).to_dict() | {"auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    task = TaskFields(task_type="token_cls", labels=("a", "b"))
    assert type(meta_model(read_config(tmp_path), torch.float32, task)) is DebertaV2ForTokenClassification


def test_auto_map_beside_a_native_class_runs_the_native_class(tmp_path: Path) -> None:
    fields = LlamaConfig(**SMALL, **HEADS).to_dict() | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran code of the folder')")
    assert type(meta_model(read_config(tmp_path), torch.float32)).__module__.startswith("transformers.")
