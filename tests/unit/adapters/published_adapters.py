"""Adapters of a tiny Llama with random values, published as a run publishes its own; and PEFT with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import MAGNITUDE, adapter_config, tensor_name
from raylora.model.adapter.slot import Slot
from raylora.model.export import adapter_files
from raylora.store.blob import open_store
from raylora.store.manifest import publish
from tests.unit.model.tiny import tiny_config

DIGEST = "b" * 64


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(tiny_config())


def save_adapter(folder: Path, targets: Sequence[str], slot: Slot, **about: object) -> str:
    """An adapter of the layers whose dotted names end so; other slots have other values."""
    draw = torch.Generator().manual_seed(slot.seed)
    tensors: dict[str, Tensor] = {}
    for module, layer in tiny_llama().named_modules():
        if isinstance(layer, nn.Linear) and f".{module}".endswith(tuple(f".{target}" for target in targets)):
            shapes = {"lora_A": (slot.r, layer.in_features), "lora_B": (layer.out_features, slot.r)}
            shapes |= {MAGNITUDE: (layer.out_features,)} if slot.use_dora else {}
            for matrix, shape in shapes.items():
                tensors[tensor_name(module, matrix)] = 0.3 * torch.randn(shape, generator=draw)
    adapter = Adapter(tensors, adapter_config(slot, targets, ("tiny/llama", None)))
    about = {"base_digest": DIGEST, "run_id": f"run-{folder.name}", **about}
    return publish(open_store(str(folder.parent)), folder.name, adapter_files(adapter), about)


def in_peft(*uris: str) -> PeftModel:
    """PEFT's model with adapters `p0`, `p1` and so on."""
    model = PeftModel.from_pretrained(tiny_llama(), uris[0], adapter_name="p0")
    for number, uri in enumerate(uris[1:], start=1):
        model.load_adapter(uri, adapter_name=f"p{number}")
    return model


def lora_layers(model: PeftModel) -> dict[str, Any]:
    """PEFT's layers by dotted name in the base."""
    return {name: layer for name, layer in model.base_model.model.named_modules() if isinstance(layer, LoraLayer)}


def peft_updates(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """What one of PEFT's adapters adds to each weight."""
    layers = lora_layers(model).items()
    return {name: layer.get_delta_weight(adapter).detach() for name, layer in layers if adapter in layer.lora_A}


def assert_same_updates(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        assert update.abs().max() > 1e-3, name
        torch.testing.assert_close(found[name], update, rtol=1e-5, atol=1e-5)
