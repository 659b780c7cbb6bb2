"""match_targets means by `lora_target_modules` what PEFT means by `target_modules`."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from raylora.model.base.meta import meta_model
from raylora.model.inspect import inspect_targets
from raylora.model.targets import adapter_values, match_targets
from tests.unit.model.tiny import spec_of, tiny_config

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 48}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": tiny_config(),
    "neox": GPTNeoXConfig(**WIDTH, num_attention_heads=4),
    "opt": OPTConfig(
        hidden_size=32, num_hidden_layers=2, vocab_size=64, ffn_dim=48, num_attention_heads=4, word_embed_proj_dim=16
    ),
    "gemma": GemmaConfig(**WIDTH, **HEADS),
    "gemma3": Gemma3TextConfig(**WIDTH, **HEADS),
    "qwen2": Qwen2Config(**WIDTH, num_attention_heads=4, num_key_value_heads=2),
    "mixtral": MixtralConfig(**WIDTH, **HEADS, num_local_experts=2),
}
QKV = ["q_proj", "v_proj"]
ASKED = [
    # PEFT's all-linear of a mixture of experts adds the experts' fused parameters, which are no layers of their own.
    *[(kind, "all-linear") for kind in CONFIGS if kind != "mixtral"],
    *[(kind, QKV) for kind in ("llama", "opt", "gemma", "gemma3", "qwen2", "mixtral")],
    ("neox", ["query_key_value"]),
    ("neox", r".*\.(dense|dense_h_to_4h)"),
    ("llama", r".*\.layers\.1\..*_proj"),
    ("llama", ["self_attn.o_proj", "model.layers.0.mlp.up_proj"]),
    ("llama", "model.layers.[0-9].(mlp|self_attn).(gate|q)_proj"),
    ("opt", r"model\.decoder\.layers\.\d+\.fc[12]"),
    ("opt", ["project_in", "project_out"]),
]  # fmt: skip


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize(("kind", "asked"), ASKED, ids=[f"{kind}-{asked}" for kind, asked in ASKED])
def test_the_same_modules_and_values_as_peft(kind: str, asked: str | list[str], use_dora: bool) -> None:
    config = CONFIGS[kind]
    peft_model = get_peft_model(
        AutoModelForCausalLM.from_config(config, dtype=torch.float32),
        LoraConfig(r=2, target_modules=asked, task_type="CAUSAL_LM", use_dora=use_dora),
    )
    spec = spec_of("base", lora_r=2, lora_target_modules=asked, use_dora=use_dora)
    model = meta_model(config, torch.float32)
    assert sorted(match_targets(model, spec)) == sorted(peft_model.targeted_module_names)
    num_values, _ = peft_model.get_nb_trainable_parameters()
    assert inspect_targets(model, spec).trainable_parameters == adapter_values(model, spec) == num_values
