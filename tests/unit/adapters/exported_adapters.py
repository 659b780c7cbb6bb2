"""Adapters that PEFT made over a tiny base, their matrices random: as PEFT saves them, and as raylora stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.store.blob import open_store
from raylora.store.manifest import publish

BASE_NAME = "tiny/llama"
ABOUT: dict[str, Any] = {
    "base_model": BASE_NAME,
    "base_revision": None,
    "base_digest": "b" * 64,
    "quantization": "nf4-double",
    "adapter": "lora",
    "lora_r": 4,
    "data_digest": "d" * 64,
    "tokenizer_digest": "e" * 64,
    "seed": 7,
    "spec_digest": "c" * 64,
    "run_id": "20260102-030405-abcdef",
    "raylora": "0.1.0",
    "eval_loss": 1.25,
}
SETTINGS: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "k_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
    "init_lora_weights": False,
}
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"k_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
    "alpha_pattern": {"down_proj": 3, r"layers\.0\.self_attn\.q_proj": 5},
}
IDS = torch.arange(12).reshape(2, 6)


def base_of(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return model.eval()


def adapted(base: Path, **fields: Any) -> PeftModel:
    """A base under an adapter that changes its output."""
    model = base_of(base)
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**{**SETTINGS, **fields})).eval()


def files_of(
    model: PeftModel, base_name: str | None = BASE_NAME, dtype: torch.dtype = torch.float32
) -> dict[str, bytes]:
    """What PEFT writes of an adapter, without asking the hub about its base."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = model.peft_config["default"].to_dict() | {"base_model_name_or_path": base_name}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return {
        "adapter_model.safetensors": safetensors.torch.save({k: v.to(dtype).contiguous() for k, v in tensors.items()}),
        "adapter_config.json": json.dumps(plain).encode(),
    }


def published(model: PeftModel, home: Path, about: Mapping[str, Any] | None = None, **options: Any) -> StoredAdapter:
    """The adapter as raylora stores it, with a lineage that says this and that beside what it says anyway."""
    return read_adapter(publish(open_store(str(home)), "adapter", files_of(model, **options), ABOUT | (about or {})))


def saved(model: PeftModel, home: Path, **options: Any) -> StoredAdapter:
    """The adapter as PEFT alone stores it."""
    folder = home / "adapter"
    folder.mkdir(parents=True)
    for name, content in files_of(model, **options).items():
        (folder / name).write_bytes(content)
    return read_adapter(str(folder))


def stored(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int, int]], uri: str = "here") -> StoredAdapter:
    """An adapter in memory alone: random matrices of the given (O, I, R) by module."""
    tensors: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(0)
    for module, (num_outputs, num_inputs, r) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(r, num_inputs, generator=draw)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(num_outputs, r, generator=draw)
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": BASE_NAME}
    return StoredAdapter(uri, tensors, {**fields, **config}, {})


def updates_of(model: PeftModel) -> dict[str, Tensor]:
    """What PEFT adds to each weight."""
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight")]
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach() for name, module in layers
    }


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def all_bytes(folder: Path) -> bytes:
    """Every file below a folder, one after the other, with its name."""
    files: Sequence[Path] = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
