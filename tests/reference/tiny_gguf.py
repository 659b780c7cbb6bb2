"""Tiny random bases of each architecture that is exported to GGUF, for transformers and as llama.cpp reads them.

Written by hand, since llama.cpp's own converter is in no package: that both are one model is a test of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from raylora.model.base.task_class import causal_lm_class
from tests.unit.model.tiny import in_llama_cpps_order

VOCAB_SIZE = 258
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
    "initializer_range": 0.3,  # far apart from one another, so that the likeliest token is no matter of rounding
}
GEMMA_QUERIES = {"query_pre_attn_scalar": 8}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma": GemmaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, **GEMMA_QUERIES),
    "gemma3_text": Gemma3TextConfig(**SHAPE, **GEMMA_QUERIES),
}
ARCHES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}


def tiny_base(kind: str) -> PreTrainedModel:
    """A random model, of which nothing is zero."""
    torch.manual_seed(0)
    config = CONFIGS[kind]
    model = causal_lm_class(config)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write_base(file: Path, model: PreTrainedModel, kind: str) -> None:
    """Write a model in float32 as llama.cpp's converter would.

    Args:
        file: A new file.
        model: From `tiny_base`.
        kind: Of the same.
    """
    config, arch = model.config, ARCHES[kind]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(VOCAB_SIZE)
    # Of Gemma 3's two kinds of layers both blocks are of the one that looks not far, whose base is llama.cpp's default.
    writer.add_rope_freq_base(config.rope_parameters.get("rope_theta", 1e6))
    if kind in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    # Words, not bytes: llama.cpp tells no token that leaves a character of UTF-8 half said.
    writer.add_token_list(["Ċ", *(f"w{i}" for i in range(1, 256)), "<s>", "</s>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert place is not None, name
        writer.add_tensor(place, as_stored(kind, name, parameter.detach()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_stored(kind: str, name: str, tensor: Tensor) -> Tensor:
    """A weight as llama.cpp keeps it: some rows in another order, Gemma's norms without their offset."""
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if kind in ("llama", "mistral") and name.endswith(("q_proj.weight", "k_proj.weight")):
        return in_llama_cpps_order(tensor, 4 if "q_proj" in name else 2)
    return tensor
