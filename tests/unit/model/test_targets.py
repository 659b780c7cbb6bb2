"""match_targets: what words match and what is said when they do not; inspect counts the same layers."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.meta import meta_model
from raylora.model.inspect import inspect_targets
from raylora.model.targets import match_targets
from tests.unit.model.tiny import spec_of, tiny_config

QUERY = "model.layers.{}.self_attn.q_proj"


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return meta_model(tiny_config(), torch.float32)


def problems(model: PreTrainedModel, **fields: object) -> list[str]:
    with pytest.raises(ModelError) as caught:
        match_targets(model, spec_of("base", lora_r=4, **fields))
    return str(caught.value).split("\n")


def test_names_come_in_the_models_order(llama: PreTrainedModel) -> None:
    spec = spec_of("base", lora_target_modules=["v_proj", "q_proj", "layers.1.mlp.up_proj"])
    assert match_targets(llama, spec) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.mlp.up_proj",
    ]


def test_a_name_matches_whole_parts_only(llama: PreTrainedModel) -> None:
    [problem] = problems(llama, lora_target_modules=["proj"])
    assert "'proj' matches no module of LlamaForCausalLM" in problem


def test_everything_wrong_is_said_at_once(llama: PreTrainedModel) -> None:
    named = ["q_prj", "embed_tokens", "lm_head", "layers.0.self_attn.kproj", "v_proj"]
    with pytest.raises(ModelError) as caught:
        match_targets(llama, spec_of("base", lora_r=17, lora_target_modules=named))
    text = str(caught.value).split("\n")
    assert len(text) == 5
    assert text[0].startswith(
        "lora_target_modules: 'q_prj' matches no module of LlamaForCausalLM; nearest: q_proj; run raylora inspect"
    )
    assert "no linear layer, only model.embed_tokens (Embedding)" in text[1]
    assert "'lm_head' matches the output head lm_head" in text[2]
    assert "nearest: model.layers.0.self_attn.k_proj" in text[3]
    assert "lora_r: got 17" in text[4] and "model.layers.0.self_attn.v_proj (16 x 32) and 1 more" in text[4]
    assert "at most 16" in text[4]


def test_a_text_is_a_regular_expression_for_the_whole_name(llama: PreTrainedModel) -> None:
    spec = spec_of("base", lora_target_modules=r".*\.1\..*(q|k)_proj")
    assert match_targets(llama, spec) == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"]
    [problem] = problems(llama, lora_target_modules="q_proj")
    assert "for names write a list, [q_proj]" in problem
    assert "output head" in problems(llama, lora_target_modules=".*")[0]


def test_a_projection_above_a_matrix_is_refused(llama: PreTrainedModel) -> None:
    """Keys and values have 16 rows."""
    galore = {"adapter": "full", "optimizer": "galore_adamw"}
    said = (
        "galore_rank: got 17, above the smaller side of model.layers.0.self_attn.k_proj (16 x 32) and 3 more. "
        "Allowed for these targets: at most 16. Lower galore_rank."
    )
    assert problems(llama, **galore, galore_rank=17) == [said]
    assert inspect_targets(llama, spec_of("base", **galore, galore_rank=17)).problems == (said,)
    assert match_targets(llama, spec_of("base", **galore, galore_rank=16))
    conv1d = meta_model(GPT2Config(n_embd=32, n_inner=8, n_layer=1, n_head=2, vocab_size=64), torch.float32)
    assert "transformer.h.0.mlp.c_fc (8 x 32)" in problems(conv1d, **galore, galore_rank=9)[0]
    assert match_targets(llama, spec_of("base", adapter="full")), "without GaLore its rank is none"


def test_a_rank_up_to_the_smaller_side_is_allowed(llama: PreTrainedModel) -> None:
    targets = ["k_proj"]
    assert len(match_targets(llama, spec_of("base", lora_r=16, lora_target_modules=targets))) == 2
    with pytest.raises(ModelError, match="at most 16"):
        match_targets(llama, spec_of("base", lora_r=17, lora_target_modules=targets))


def test_a_pattern_that_backtracks_without_end_is_stopped(llama: PreTrainedModel) -> None:
    [problem] = problems(llama, lora_target_modules=r"(?:.|..|...)*(?<=z)")
    assert "cannot be matched (regex timed out)" in problem


@pytest.mark.parametrize("asked", ["all-linear", ["c_attn"], r".*c_attn"])
def test_a_transposed_layer_is_refused(asked: object) -> None:
    model = meta_model(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64), torch.float32)
    [problem] = problems(model, lora_target_modules=asked)
    assert "transformer.h.0.attn.c_attn of GPT2LMHeadModel, a Conv1D" in problem


def test_inspect_shows_every_linear_layer_and_counts_what_trains(llama: PreTrainedModel) -> None:
    seen = inspect_targets(llama, spec_of("base", lora_r=4, lora_target_modules=["q_proj", "layers.0.mlp.down_proj"]))
    rows = {row.pattern: row for row in seen.rows}
    query, down = rows[QUERY.format("*")], rows["model.layers.*.mlp.down_proj"]
    assert (query.shape, query.num_modules, query.num_adapted) == ((32, 32), 2, 2)
    assert query.trainable_parameters == 2 * 4 * (32 + 32)
    assert (down.shape, down.num_modules, down.num_adapted) == ((32, 48), 2, 1)
    assert rows["lm_head"].num_adapted == rows["lm_head"].trainable_parameters == 0
    assert seen.trainable_parameters == 2 * 4 * (32 + 32) + 4 * (32 + 48)
    assert len(rows) == 8 and seen.problems == ()


@pytest.mark.parametrize("is_tied", [False, True], ids=["own-head", "tied-head"])
def test_inspect_of_a_base_that_trains_counts_each_weight_once(is_tied: bool) -> None:
    model = meta_model(tiny_config(tie_word_embeddings=is_tied), torch.float32)
    seen = inspect_targets(model, spec_of("base", adapter="full"))
    rows = {row.pattern: row for row in seen.rows}
    assert (rows[QUERY.format("*")].num_adapted, rows["lm_head"].num_adapted) == (2, 0 if is_tied else 1)
    assert seen.trainable_parameters == sum(parameter.numel() for parameter in model.parameters())
    beside = [name for name, _ in model.named_parameters() if "norm" in name or "embed" in name]
    assert seen.num_beside == sum(model.get_parameter(name).numel() for name in beside)


def test_inspect_of_a_wrong_pattern_still_shows_the_layers(llama: PreTrainedModel) -> None:
    seen = inspect_targets(llama, spec_of("base", lora_target_modules=["q_prj"]))
    assert len(seen.rows) == 8 and "nearest: q_proj" in seen.problems[0]


def test_r16_on_one_4096_square_trains_131072_values() -> None:
    shape = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 1}
    model = meta_model(tiny_config(**shape), torch.float32)
    seen = inspect_targets(model, spec_of("base", lora_r=16, lora_target_modules=["q_proj"]))
    assert seen.trainable_parameters == 131_072
