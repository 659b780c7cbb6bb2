"""Losses inside the model's forward pass against cross-entropy on the model's own logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CohereConfig,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MptConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from raylora.errors import ModelError
from raylora.objectives import token_losses
from raylora.objectives.token_losses import TokenLosses

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 120, "intermediate_size": 96, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, **HEADS),
    "llama-tied": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    "neox": GPTNeoXConfig(**SMALL, num_attention_heads=4),
    "phi-bias": PhiConfig(**SMALL, num_attention_heads=4),
    "gemma2-softcap": Gemma2Config(**SMALL, **HEADS, final_logit_softcapping=2.0, initializer_range=0.3),
    "granite-scaled": GraniteConfig(**SMALL, num_attention_heads=4, logits_scaling=3.0),
    "cohere-scaled": CohereConfig(**SMALL, num_attention_heads=4, logit_scale=0.25, bos_token_id=1, eos_token_id=2),
    "mpt-scale-in-words": MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=120, logit_scale="inv_sqrt_d_model"),
    "recurrentgemma-softcap": RecurrentGemmaConfig(
        **SMALL, num_attention_heads=4, lru_width=64, logits_soft_cap=2.0, block_types=("recurrent", "attention")
    ),
}


def make(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    head = model.get_output_embeddings()
    if head.bias is not None:
        head.bias.data.normal_()
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(3, 120, (3, 9))
    labels[torch.rand(3, 9) < 0.4] = -100
    return torch.randint(3, 120, (3, 9)), labels


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_are_those_of_the_models_logits(name: str):
    model, (ids, labels) = make(CONFIGS[name]), batch()
    probe = model.get_input_embeddings().weight.requires_grad_()
    model.get_output_embeddings().weight.requires_grad_(probe is model.get_output_embeddings().weight)
    logits = model(ids, use_cache=False).logits
    expected = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")[
        labels.flatten() != -100
    ]
    inner = [p for p in model.parameters() if p is not probe and p.ndim == 2 and p.requires_grad]
    expected_grads = torch.autograd.grad(expected.sum(), inner, allow_unused=True)
    losses = TokenLosses(model)({"input_ids": ids}, labels).losses_N
    grads = torch.autograd.grad(losses.sum(), inner, allow_unused=True)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert any(grad is not None for grad in grads)
    for found, wanted in zip(grads, expected_grads, strict=True):
        if wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_hits_are_what_the_model_holds_likeliest(name: str):
    model, (ids, labels) = make(CONFIGS[name]), batch()
    with torch.no_grad():
        likeliest = model(ids, use_cache=False).logits.argmax(-1)
        labels[:2] = likeliest[:2].masked_fill(labels[:2] == -100, -100)
        is_hit = TokenLosses(model)({"input_ids": ids}, labels).is_hit_N
    assert torch.equal(is_hit, (likeliest == labels)[labels != -100])
    assert is_hit.any() and not is_hit.all()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_generates_as_before(name: str):
    model, (ids, labels) = make(CONFIGS[name]), batch()
    prompt = ids[:1]
    before = model.generate(prompt, max_new_tokens=4, do_sample=False)
    logits = model(ids, use_cache=False).logits
    loss = TokenLosses(model)
    with torch.no_grad():
        loss({"input_ids": ids}, labels)
    assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False), before)
    torch.testing.assert_close(model(ids, use_cache=False).logits, logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "is_whole"),
    [("llama", False), ("granite-scaled", False), ("cohere-scaled", False), ("gemma2-softcap", True)],
)
def test_logits_are_whole_only_where_more_than_a_scale_is_done_to_them(name: str, is_whole: bool):
    model, (ids, labels) = make(CONFIGS[name]), batch()
    given: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda head, args, output: given.append(output.numel()))
    losses = TokenLosses(model)({"input_ids": ids}, labels).losses_N
    assert given == [len(losses) * (120 if is_whole else 1)]


@pytest.mark.parametrize("name", ["llama", "gemma2-softcap"])
def test_no_labels_give_no_losses(name: str):
    """A rank without rows runs the model all the same, backward too."""
    model, (ids, _) = make(CONFIGS[name]), batch()
    losses = TokenLosses(model)({"input_ids": ids}, torch.full_like(ids, -100)).losses_N
    assert losses.shape == (0,)
    losses.sum().backward()


def test_a_model_that_changes_its_logits_unsaid_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_losses, "POST_PROCESSED", ())
    model, (ids, labels) = make(CONFIGS["gemma2-softcap"]), batch()
    loss = TokenLosses(model)
    loss({"input_ids": ids}, torch.full_like(ids, -100))
    embedding = model.get_input_embeddings().weight
    kept = embedding[ids[0, 0]].clone()
    embedding.data[ids[0, 0]] = float("nan")
    assert loss({"input_ids": ids}, labels).losses_N.isnan().any(), "a pass that shows nothing is not taken for a proof"
    embedding.data[ids[0, 0]] = kept
    with pytest.raises(ModelError, match="Gemma2ForCausalLM changes its logits"):
        loss({"input_ids": ids}, labels)


def test_a_scale_that_the_model_does_not_keep_to_is_refused():
    model, (ids, labels) = make(CONFIGS["llama"]), batch()
    model.config.logit_scale = 0.5
    with pytest.raises(ModelError, match="LlamaForCausalLM changes its logits"):
        TokenLosses(model)({"input_ids": ids}, labels)


def test_an_error_in_the_model_is_told_readably_and_leaves_it_usable():
    model, (ids, labels) = make(CONFIGS["llama"]), batch()
    loss = TokenLosses(model)
    with pytest.raises(ModelError, match=r"^base_model: .* of LlamaForCausalLM cannot run \(IndexError: index out of"):
        loss({"input_ids": ids + 1000}, labels)
    assert model(ids).logits.shape == (3, 9, 120)
