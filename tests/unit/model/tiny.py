"""Tiny bases that tests make: a random Llama with a tokenizer, as a folder or as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raylora.spec.run import RunSpec


def spec_of(base_model: str | Path, **fields: object) -> RunSpec:
    """A run on a base; its data set is never read here."""
    return RunSpec.model_validate({"base_model": str(base_model), "datasets": [{"path": "rows.jsonl"}], **fields})


def tiny_config(**fields: object) -> LlamaConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 48}
    return LlamaConfig(**{**shape, "num_attention_heads": 4, "num_key_value_heads": 2, **fields})


def save_tiny(folder: Path, max_shard_size: str = "5GB", seed: int = 0, **fields: object) -> LlamaForCausalLM:
    """Save a random Llama and its tokenizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config(**fields))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1").save_pretrained(folder)
    return model


GGUF_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_gguf(file: Path, facts: dict[str, str] | None = None, leave_out: str = "") -> dict[str, np.ndarray]:
    """Write a one-layer Llama with float32 tensors in llama.cpp's names and return them."""
    writer = GGUFWriter(str(file), "llama")
    for key, value in (facts or {}).items():
        writer.add_string(f"general.{key}", value)
    for add, number in (
        (writer.add_block_count, 1),
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 32),
        (writer.add_feed_forward_length, 48),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 1),
        (writer.add_vocab_size, 260),
        (writer.add_rope_dimension_count, 16),
        (writer.add_bos_token_id, 256),
        (writer.add_eos_token_id, 257),
    ):
        add(number)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*pre_tokenizers_bytes(), "<s>", "</s>", "he", "ll"])
    writer.add_token_types([1] * 256 + [3, 3, 1, 1])
    writer.add_token_merges(["h e", "l l"])
    writer.add_chat_template(GGUF_TEMPLATE)
    block = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32)}
    block |= {"attn_output": (32, 32), "ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
    shapes = {"token_embd": (260, 32), "output_norm": (32,), **{f"blk.0.{name}": s for name, s in block.items()}}
    random = np.random.default_rng(0)
    tensors = {f"{name}.weight": random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if name != leave_out:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def pre_tokenizers_bytes() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's alphabet."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def in_llama_cpps_order(weight_OI: Tensor, num_heads: int) -> Tensor:
    """Row by row: of each head, first the first of both halves, then the second of both, and so on."""
    size = weight_OI.shape[0] // num_heads
    places = [(head, i, half) for head in range(num_heads) for i in range(size // 2) for half in (0, 1)]
    rows = [head * size + half * (size // 2) + i for head, i, half in places]
    return weight_OI[rows]


class Kept(nn.Module):
    """Dropout by a mask that is given."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask
