"""A `peft:` block is checked by PEFT's own class and by being put on the base's shapes, before anything starts."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from raylora.errors import ModelError
from raylora.model.load import base_on_meta
from raylora.model.peft_config import peft_config, why_not
from raylora.model.peft_trial import peft_trial
from raylora.spec.run import RunSpec

CONFIG = LlamaConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    attention_bias=True,
)
LOHA = {"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj", "v_proj"]}
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}
NF4 = {"load_in_4bit": True}


def base(**fields: Any) -> PreTrainedModel:
    spec = RunSpec.model_validate({"base_model": "base", "datasets": [{"path": "rows"}]} | fields)
    return base_on_meta(CONFIG, spec, torch.float32)


def refusal(block: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(ModelError) as caught:
        peft_trial(base(**fields), block)
    return str(caught.value)


def shape_of(model: nn.Module) -> list[tuple[str, type, bool]]:
    modules = [(name, type(module), False) for name, module in model.named_modules()]
    return modules + [(name, type(each), each.requires_grad) for name, each in model.named_parameters()]


def test_a_block_becomes_the_config_of_pefts_class():
    config = peft_config({**LOHA, "alpha": 16, "rank_dropout": 0.1})
    assert type(config) is PEFT_TYPE_TO_CONFIG_MAPPING["LOHA"]
    assert (config.r, config.alpha, config.rank_dropout, config.task_type) == (4, 16, 0.1, "CAUSAL_LM")
    assert config.target_modules == {"q_proj", "v_proj"}


def test_a_type_that_there_is_not_names_the_nearest_and_all():
    said = refusal({"peft_type": "LOHAA"})
    assert "peft_type: got 'LOHAA'" in said
    assert "nearest: LOHA" in said
    assert "VBLORA" in said


def test_all_that_is_wrong_with_the_fields_is_told_at_once():
    said = refusal({**LOHA, "alhpa": 8, "inference_mode": True, "task_type": "SEQ_CLS", "layers_pattern": "h"})
    assert "alhpa is no field of LOHA; nearest: alpha" in said
    assert "inference_mode is not set here, it would train nothing; remove it" in said
    assert "task_type: got 'SEQ_CLS'; allowed: CAUSAL_LM" in said
    assert "PEFT refuses these fields of LOHA (ValueError: When `layers_pattern` is specified" in said


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE"])
def test_types_that_add_tokens_are_refused_with_a_reason(kind: str):
    assert "cannot be trained here: it puts tokens of its own before each row" in refusal({"peft_type": kind})


@pytest.mark.parametrize("kind", ["ADALORA", "XLORA", "POLY", "LILY", "SHADOW"])
def test_types_that_need_more_than_their_layers_are_refused_with_a_reason(kind: str):
    assert f"{kind} cannot be trained here: {why_not(kind)}" in refusal({"peft_type": kind})


@pytest.mark.parametrize("start", ["eva", "corda", "lora_ga"])
def test_a_start_from_rows_is_refused(start: str):
    assert "from rows, by a call that a run does not make" in refusal({**LORA, "init_lora_weights": start})


@pytest.mark.parametrize("fields", [{}, NF4], ids=["plain", "nf4"])
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changes_the_base_is_refused(start: str, fields: dict[str, Any]):
    assert "frozen base takes no other" in refusal({**LORA, "init_lora_weights": start}, **fields)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"bias": "all"}, "trains biases of the frozen base"),
        ({"bias": "lora_only"}, "trains biases of the frozen base"),
        ({"modules_to_save": ["k_proj"]}, "copies layers of the frozen base"),
        ({"layer_replication": [[0, 2], [0, 1]]}, "copies layers of the frozen base"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapts the output head"),
        ({"modules_to_save": ["lm_head"]}, "adapts the output head"),
    ],
)
def test_what_is_not_beside_the_base_is_refused(more: dict[str, Any], said: str):
    assert said in refusal({**LORA, **more})


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({**LOHA, "r": 0}, "`r` should be a positive integer value"),
        ({**LOHA, "target_modules": ["q_prj"]}, "Target modules {'q_prj'} not found in the base model"),
        ({"peft_type": "C3A", "block_size": 7, "target_modules": ["q_proj"]}, "block"),
        ({"peft_type": "GLORA", "target_modules": ["q_proj"]}, "is not a plain torch.nn.Linear"),
    ],
)
def test_what_peft_says_is_told(block: dict[str, Any], said: str):
    found = refusal(block, **NF4)
    assert f"PEFT cannot put {block['peft_type']} with these fields on LlamaForCausalLM" in found
    assert said in found
    assert "set load_in_4bit and load_in_8bit to false" in found


@pytest.mark.parametrize("fields", [{}, NF4, {"load_in_8bit": True}], ids=["plain", "nf4", "int8"])
@pytest.mark.parametrize(
    "block", [LOHA, LORA, {**LORA, "bias": "all"}, {"peft_type": "LN_TUNING"}, {**LORA, "modules_to_save": ["k_proj"]}]
)
def test_a_trial_leaves_the_base_as_it_was(block: dict[str, Any], fields: dict[str, Any]):
    model = base(**fields)
    before, generator = shape_of(model), torch.get_rng_state()
    with suppress(ModelError):
        peft_trial(model, block)
    assert shape_of(model) == before
    assert not hasattr(model, "peft_config")
    assert torch.equal(torch.get_rng_state(), generator)
