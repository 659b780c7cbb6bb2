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
from raylora.model.bank.peft_config import peft_config, why_not
from raylora.model.bank.peft_trial import RANKS, peft_trial
from raylora.model.base.load import base_on_meta
from raylora.spec.run import RunSpec
from tests.reference.peft_types import block_of

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


def test_a_generator_that_no_step_seeds_is_refused():
    block = block_of("PVERA")
    assert "generator_seed draws PVERA's noise from a generator of its own" in refusal({**block, "generator_seed": 0})
    assert peft_config({**block, "generator_seed": None}).generator_seed is None
    assert "generator_seed is no field of LOHA" in refusal({**LOHA, "generator_seed": 0})


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({**LORA, "lora_alpha": 0}, ["lora_alpha: got 0; allowed: a number above 0"]),
        ({**LOHA, "alpha": float("inf")}, ["alpha: got inf; allowed: a number above 0"]),
        ({**LORA, "lora_alpha": "16"}, ["lora_alpha: got '16'; allowed: a number above 0"]),
        ({**LORA, "alpha_pattern": {"v_proj": 0}}, ["alpha_pattern: v_proj: got 0; allowed: a number above 0"]),
        *(
            ({**block_of(kind), "scaling": 0}, ["scaling: got 0; allowed: a number above 0"])
            for kind in ("FOURIERFT", "WAVEFT", "PEANUT")
        ),
        ({**LORA, "lora_dropout": 1.0}, ["lora_dropout: got 1.0; allowed: a number of at least 0 and below 1"]),
        (
            {**LOHA, "r": 0, "alpha": -1, "module_dropout": -0.1},
            [
                "r: got 0; allowed: a whole number of at least 1",
                "alpha: got -1; allowed: a number above 0",
                "module_dropout: got -0.1; allowed: a number of at least 0 and below 1",
            ],
        ),
        ({**LORA, "r": 2.5}, ["r: got 2.5; allowed: a whole number of at least 1"]),
        (
            {**LORA, "rank_pattern": {"v_proj": 0}},
            ["rank_pattern: v_proj: got 0; allowed: a whole number of at least 1"],
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join(map(str, value.values())),
)
def test_numbers_out_of_range_are_told_as_those_of_our_own_fields(block: dict[str, Any], said: list[str]):
    assert refusal(block).splitlines() == [f"peft: {each}" for each in said]


@pytest.mark.parametrize("fields", [{}, NF4], ids=["plain", "nf4"])
@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, ranks in RANKS.items() for field in ranks])
def test_a_rank_above_a_matrix_is_refused(kind: str, field: str, fields: dict[str, Any]):
    """Values have 32 rows, queries 64."""
    block = LORA if kind == "LORA" else {**block_of(kind), "target_modules": ["q_proj", "v_proj"]}
    assert refusal({**block, field: 34}, **fields) == (
        f"peft: {field}: got 34, above the smaller side of model.layers.0.self_attn.v_proj (32 x 64) and 1 more. "
        f"Allowed for these targets: at most 32. Lower {field} or leave these layers out."
    )
    peft_trial(base(**fields), {**block, field: 32})


def test_a_rank_of_a_pattern_is_that_of_its_layers():
    peft_trial(base(), {**LORA, "r": 64, "rank_pattern": {"v_proj": 32}})
    assert "got 40, above the smaller side of" in refusal({**LORA, "rank_pattern": {"v_proj": 40}})


def test_an_r_that_is_no_rank_of_a_matrix_is_pefts_affair():
    peft_trial(base(), {"peft_type": "VERA", "r": 256, "target_modules": ["q_proj", "v_proj"]})
    peft_trial(base(), {"peft_type": "LOKR", "r": 1000, "target_modules": ["q_proj", "v_proj"]})
    assert peft_config({"peft_type": "OFT", "r": 0, "oft_block_size": 32}).r == 0


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE"])
def test_types_that_add_tokens_are_refused_with_a_reason(kind: str):
    assert "cannot be trained here: it puts tokens of its own before each row" in refusal({"peft_type": kind})


@pytest.mark.parametrize("kind", ["ADALORA", "GLORA", "XLORA", "POLY", "LILY", "SHADOW"])
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
        ({**LOHA, "peft_type": "MISS", "r": 80}, "`r` (80) must be less than or equal to in_features (64)"),
        ({**LOHA, "target_modules": ["q_prj"]}, "Target modules {'q_prj'} not found in the base model"),
        ({"peft_type": "C3A", "block_size": 7, "target_modules": ["q_proj"]}, "block"),
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


RUNS_AWAY = r"((\w|\.)+)+Z"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": RUNS_AWAY},
        {"exclude_modules": RUNS_AWAY},
        {"rank_pattern": {RUNS_AWAY: 2}},
        {"layers_to_transform": [0], "layers_pattern": RUNS_AWAY},
        {"layers_to_transform": [0], "layers_pattern": [RUNS_AWAY]},
    ],
    ids=["targets", "excluded", "ranks", "layers", "lists of layers"],
)
def test_a_pattern_that_peft_could_match_for_ever_is_refused(fields: dict[str, Any]):
    said = refusal(LOHA | fields)
    assert said.startswith(f"peft: {list(fields)[-1]}: matching")
    assert "Write a list of names" in said
