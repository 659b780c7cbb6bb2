"""Rows on one line are the rows alone, bit for bit; a base whose attention does not get the lengths is found out."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BigBirdConfig,
    BloomConfig,
    DogeConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaModel

from raylora.errors import ModelError
from raylora.model.base.load import base_on_meta
from raylora.model.rows.row_attention import NAME, attend_by_rows
from tests.unit.model.tiny import spec_of

LENGTHS = (9, 12, 12, 12, 8, 12)
SAME = (12, 12, 12)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
TAKEN: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, **HEADS),
    "qwen3": Qwen3Config(**SMALL, **HEADS, head_dim=8),
    "mistral": MistralConfig(**SMALL, **HEADS, sliding_window=max(LENGTHS) + 1),
    "qwen2": Qwen2Config(**SMALL, **HEADS, use_sliding_window=False, sliding_window=6),
    "gemma3": Gemma3TextConfig(**SMALL, **HEADS, head_dim=8),
    "phi3": Phi3Config(**SMALL, **HEADS),
    "gpt-neox": GPTNeoXConfig(**SMALL, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64),
    "gpt2": GPT2Config(**SMALL, n_head=4, n_positions=64),
}
EXPERTS = MixtralConfig(**SMALL, **HEADS, num_local_experts=4)
REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "capped scores": (Gemma2Config(**SMALL, **HEADS, head_dim=8), "has an attention of its own"),
    "short window": (MistralConfig(**SMALL, **HEADS, sliding_window=6), "has sliding_window: 6"),
    "recurrent": (MambaConfig(**SMALL, state_size=8), "do not keep to a mask"),
    "no positions": (BloomConfig(**SMALL, n_head=4), "has an attention of its own"),
    "both ways": (BigBirdConfig(**SMALL, num_attention_heads=4), "lets tokens see those after them"),
    "lengths lost": (StableLmConfig(**SMALL, **HEADS), "StableLmAttention loses row_lengths"),
    "own mask": (DogeConfig(**SMALL, **HEADS), "cannot attend by rows"),
}


def made(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="sdpa").eval()
    return model


def by_rows(config: PretrainedConfig) -> PreTrainedModel:
    model = made(config)
    assert attend_by_rows(model, max(LENGTHS)) is None
    return model


def line_of(lengths: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(1)
    positions_1N = torch.cat([torch.arange(length) for length in lengths])[None]
    return {"input_ids": torch.randint(1, 64, positions_1N.shape), "position_ids": positions_1N, "row_lengths": lengths}


def losses_and_gradients(
    model: PreTrainedModel, inputs: dict[str, Any], is_row: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Losses of each token of a row against the token itself, and their gradient with respect to the embedded tokens.

    Rows have 8 tokens or more and the layers multiples of 32 numbers a token: a product with fewer lines, or the last
    numbers of a vector, take another kernel.
    """
    ids = inputs["input_ids"]
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    logits = model(inputs_embeds=embedded, **rest, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").reshape(ids.shape)
    (losses if is_row is None else losses[is_row]).sum().backward()
    assert embedded.grad is not None
    return losses.detach(), embedded.grad


def alone(model: PreTrainedModel, line: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The same of each row by itself, by a model as transformers made it; joined as on the line."""
    rows = line["input_ids"].split(line["row_lengths"], dim=1)
    losses, gradients = zip(*(losses_and_gradients(model, {"input_ids": row}) for row in rows), strict=True)
    return torch.cat(losses, 1), torch.cat(gradients, 1)


def padded(model: PreTrainedModel, line: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The same of the rows one below the other, padded to the longest."""
    lengths = line["row_lengths"]
    rows = line["input_ids"][0].split(lengths)
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    is_row = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    losses, gradients = losses_and_gradients(model, {"input_ids": ids, "attention_mask": is_row.long()}, is_row)
    return losses[is_row][None], gradients[is_row][None]


@pytest.mark.parametrize("lengths", [SAME, LENGTHS], ids=["same", "mixed"])
@pytest.mark.parametrize("name", TAKEN)
def test_rows_on_a_line_are_the_rows_alone_bit_for_bit(name: str, lengths: tuple[int, ...]):
    line = line_of(lengths)
    found = losses_and_gradients(by_rows(TAKEN[name]), line)
    for got, expected in zip(found, alone(made(TAKEN[name]), line), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(found, padded(made(TAKEN[name]), line), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_blocks_that_run_again_get_the_lengths_again(name: str):
    line, model = line_of(LENGTHS), by_rows(TAKEN[name]).train()
    kept = losses_and_gradients(model, line)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = losses_and_gradients(model, line)
    for got, expected in zip(again, kept, strict=True):
        assert torch.equal(got, expected)


def test_experts_see_each_row_as_alone():
    """Not bit for bit: an expert multiplies the tokens of all rows that go to it at once."""
    line = line_of(LENGTHS)
    found, expected = losses_and_gradients(by_rows(EXPERTS), line), alone(made(EXPERTS), line)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_other_tokens_in_a_row_change_no_other_row():
    model, line = by_rows(TAKEN["llama"]), line_of(LENGTHS)
    before = losses_and_gradients(model, line)
    ends = [sum(LENGTHS[:count]) for count in range(len(LENGTHS) + 1)]
    for start, end in pairwise(ends):
        ids = line["input_ids"].clone()
        ids[:, start:end] = (ids[:, start:end] + 7) % 64
        for old, new in zip(before, losses_and_gradients(model, line | {"input_ids": ids}), strict=True):
            assert torch.equal(old[:, :start], new[:, :start]) and torch.equal(old[:, end:], new[:, end:])
            assert not torch.equal(old[:, start:end], new[:, start:end])


def test_no_mask_over_pairs_of_tokens_is_made(monkeypatch: pytest.MonkeyPatch):
    model, seen = by_rows(TAKEN["llama"]), []
    attention = nn.functional.scaled_dot_product_attention

    def record(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((query.shape[0], query.shape[2], kwargs["attn_mask"], kwargs["is_causal"]))
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    model(**line_of(LENGTHS), use_cache=False)
    assert seen == 2 * [(1, 9, None, True), (3, 12, None, True), (1, 8, None, True), (1, 12, None, True)]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_without_lengths_the_model_is_transformers_own(name: str):
    ours, theirs = by_rows(TAKEN[name]), made(TAKEN[name])
    ids = line_of((20, 20))["input_ids"].reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    for inputs in ({}, {"attention_mask": mask}, {"position_ids": torch.arange(20)[None] % 10}):
        assert torch.equal(ours(ids, **inputs).logits, theirs(ids, **inputs).logits)
    asked = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(ours.generate(ids, **asked), theirs.generate(ids, **asked))


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "filled"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_base_that_cannot_is_left_as_it_was(name: str, on_meta: bool):
    config, words = REFUSED[name]
    # As `meta_model` makes one, which refuses BERT already; here the attention's own check is meant.
    with init_empty_weights(include_buffers=False) if on_meta else nullcontext():
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    before = model.config._attn_implementation
    reason = attend_by_rows(model, max(LENGTHS))
    assert reason is not None and words in reason
    assert model.config._attn_implementation == before
    assert not model._forward_pre_hooks and not model._forward_hooks


@pytest.mark.parametrize("config", [*TAKEN.values(), EXPERTS], ids=[*TAKEN, "experts"])
def test_a_base_without_weights_is_taken(config: PretrainedConfig):
    model = base_on_meta(config, spec_of("base", load_in_4bit=True), torch.float32)
    for _ in range(2):  # the second time changes nothing
        assert attend_by_rows(model, max(LENGTHS)) is None
    assert model.config._attn_implementation == NAME and len(model._forward_hooks) == 1


class _LosesAll(LlamaDecoderLayer):
    """After the first pass, hands on neither lengths nor mask."""

    has_run = False

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if self.has_run:
            kwargs.pop("row_lengths", None)
            kwargs["attention_mask"] = None
        self.has_run = True
        return super().forward(hidden_states, **kwargs)


class _Skips(LlamaAttention):
    """After the first pass, attends to nothing."""

    has_run = False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        if self.has_run:
            return hidden_states, None
        self.has_run = True
        return super().forward(hidden_states, *args, **kwargs)


def test_a_pass_that_loses_the_lengths_is_refused():
    for place, words in ((_LosesAll, "loses row_lengths on the way"), (_Skips, "in 1 of 2 layers")):
        model = made(TAKEN["llama"])
        assert isinstance(model, LlamaForCausalLM) and isinstance(model.model, LlamaModel)
        if place is _LosesAll:
            model.model.layers[1] = _LosesAll(model.config, 1)
        else:
            model.model.layers[1].self_attn = _Skips(model.config, 1)
        assert attend_by_rows(model, max(LENGTHS)) is None
        with pytest.raises(ModelError, match=words):
            model(**line_of(LENGTHS), use_cache=False)
        ids = line_of(LENGTHS)["input_ids"]
        assert model(ids, use_cache=False).logits.isfinite().all()  # and the next one is not taken for it


def test_lengths_that_do_not_fit_are_refused():
    line, window = line_of(LENGTHS), MistralConfig(**SMALL, **HEADS, sliding_window=8)
    for config, change, words in (
        (TAKEN["llama"], {"row_lengths": LENGTHS[1:]}, "for rows"),
        (TAKEN["llama"], {"position_ids": None}, "without position_ids"),
        (TAKEN["llama"], {"attention_mask": torch.ones_like(line["input_ids"])}, "with a mask"),
        (window, {}, "has a window of 8 tokens, and a row has 12"),
    ):
        model = made(config)
        assert attend_by_rows(model, 8) is None
        with pytest.raises(ModelError, match=words):
            model(**line | change, use_cache=False)
