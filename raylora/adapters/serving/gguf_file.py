"""An adapter as one GGUF file, which llama.cpp puts on a base in the same format.

Updates of one rank and the base's config enter; the names of its layers in GGUF, or a file, leave. Called by
`served_folder`.

Source: llama.cpp, convert_lora_to_gguf.py, conversion/llama.py and src/llama-adapter.cpp (docs/serving.md has the
versions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from raylora.adapters.delta import Delta
from raylora.adapters.rerank import Even
from raylora.errors import ModelError
from raylora.model.base.meta import meta_model
from raylora.model.targets import linear_layers

ARCHITECTURES = {
    "llama": ("LLAMA", True),
    "mistral": ("LLAMA", True),
    "qwen2": ("QWEN2", False),
    "qwen3": ("QWEN3", False),
    "gemma": ("GEMMA", False),
    "gemma2": ("GEMMA2", False),
    "gemma3_text": ("GEMMA3", False),
}
"""GGUF's architecture by transformers' model_type, and whether llama.cpp orders the rows of queries and keys otherwise.

Only those whose conversion was read: others cut, join or reorder weights in ways of their own.
"""

HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
"""Layers with another order of rows, and the field of the config that counts their heads."""


@dataclass(frozen=True)
class Layout:
    """How a base's layers lie in GGUF.

    Args:
        architecture: As ``general.architecture`` says it.
        names: ``blk.N.attn_q.weight`` by dotted name of the layer.
        num_heads: By dotted name, for layers whose rows have another order there.
    """

    architecture: str
    names: Mapping[str, str]
    num_heads: Mapping[str, int]


def gguf_layout(config: PretrainedConfig, deltas: Mapping[str, Delta]) -> Layout:
    """Find the place of every adapted layer in a GGUF file of the base.

    Args:
        config: Of the base.
        deltas: By dotted name of the layer.

    Raises:
        ModelError: The architecture is not among those that are known here, a layer is not in the base or has another
            shape there, GGUF has no name for it, or the package gguf is not installed.
    """
    architecture, is_permuted = _architecture(config)
    if find_spec("gguf") is None:
        raise ModelError("--for gguf: writing .gguf needs the package gguf; run: pip install gguf")
    import gguf

    arch = gguf.MODEL_ARCH[architecture]
    named = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = {module: named.get_name(module) for module in deltas}
    problems = _misfits(config, deltas)
    if nameless := [module for module, name in found.items() if name is None]:
        problems.append(f"GGUF has no tensor of architecture {architecture.lower()} for {', '.join(nameless[:3])}")
    if problems:
        raise ModelError("\n".join(f"--for gguf: {problem}. Export it for another server" for problem in problems))
    names = {module: f"{name}.weight" for module, name in found.items()}
    heads = {module: HEADS.get(module.rpartition(".")[2]) for module in deltas} if is_permuted else {}
    num_heads = {module: int(getattr(config, field)) for module, field in heads.items() if field}
    return Layout(gguf.MODEL_ARCH_NAMES[arch], names, num_heads)


def write_gguf(file: Path, even: Even, layout: Layout, base_name: str) -> None:
    """Write the adapter.

    Args:
        file: A new file.
        even: Its updates; llama.cpp scales B A by ``adapter.lora.alpha`` over the rank.
        layout: From `gguf_layout`, for the same layers.
        base_name: Logical id of the base.
    """
    import gguf

    writer = gguf.GGUFWriter(file, layout.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, even.alpha)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_name)
    for module, name in layout.names.items():
        delta = even.deltas[module]
        b_OR = reordered(delta.b_OR, layout.num_heads[module]) if module in layout.num_heads else delta.b_OR
        writer.add_tensor(f"{name}.lora_a", delta.a_RI.contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", b_OR.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reordered(weight_OI: Tensor, num_heads: int) -> Tensor:
    """Put the rows of queries or keys into llama.cpp's order: of each head, the two halves by turns.

    Its rotation pairs neighbours where transformers pairs the halves. An update B A follows its weight when B does.

    Args:
        weight_OI: A weight, or B.
        num_heads: Heads whose rows follow one another.

    Shapes:
        weight_OI: (O, I) or (O, R). Returns the same.
    """
    num_rows = weight_OI.shape[0]
    halves = weight_OI.reshape(num_heads, 2, num_rows // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight_OI.shape)


def _architecture(config: PretrainedConfig) -> tuple[str, bool]:
    if config.model_type in ARCHITECTURES:
        return ARCHITECTURES[config.model_type]
    known = ", ".join(ARCHITECTURES)
    raise ModelError(
        f"--for gguf: the base has model_type {config.model_type!r}. Allowed: {known}, whose weights llama.cpp takes "
        "as they are, or in an order known here. Run llama.cpp's convert_lora_to_gguf.py on an export --for peft"
    )


def _misfits(config: PretrainedConfig, deltas: Mapping[str, Delta]) -> list[str]:
    """What the base has no layer for, by a model without weights."""
    model = meta_model(config, torch.float32)
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in linear_layers(model).items()}
    absent = [module for module in deltas if module not in shapes]
    other = [
        f"{module} ({delta.b_OR.shape[0]} x {delta.a_RI.shape[1]}, base {shapes[module][0]} x {shapes[module][1]})"
        for module, delta in deltas.items()
        if module in shapes and shapes[module] != (delta.b_OR.shape[0], delta.a_RI.shape[1])
    ]
    head = model.get_output_embeddings()
    is_tied = head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)
    problems = [f"the base has no linear layer {', '.join(absent[:3])}"] if absent else []
    problems += [f"layers of other shapes than the base's: {', '.join(other[:3])}"] if other else []
    if is_tied and any(module == "lm_head" for module in deltas):
        problems.append("lm_head shares its weight with the embedding, and GGUF has no tensor for it then")
    return problems
