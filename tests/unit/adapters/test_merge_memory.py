"""A base is merged, and its logits compared, without being held whole: a file of its weights is, or a block of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from raylora.model.adapter.peft_format import adapter_config, tensor_name
from raylora.model.adapter.slot import Slot
from raylora.model.base.meta import meta_model
from raylora.model.targets import linear_layers
from tests.arch.source_tree import REPOSITORY
from tests.unit.data.small_tokenizer import small_tokenizer

SHAPE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}
LAYER = "model.layers.3.mlp.down_proj"
SHARD_BYTES = 20_000_000


def save_base(folder: Path, **shape: int) -> int:
    """A random Llama in bfloat16, written without making the model; returns the bytes of its weights."""
    tokenizer = small_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(**{**SHAPE, **shape}, vocab_size=len(tokenizer), architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    parameters = meta_model(config, torch.bfloat16).named_parameters()
    tensors = {name: 0.02 * torch.randn(each.shape, dtype=torch.bfloat16) for name, each in parameters}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def save_adapter(folder: Path, base: Path) -> None:
    """An adapter of all linear layers but the head, so that nearly every tensor is written anew."""
    folder.mkdir()
    layers = linear_layers(meta_model(LlamaConfig.from_pretrained(base), torch.float32))
    targets = [name for name in layers if name != "lm_head"]
    tensors: dict[str, Tensor] = {}
    for name in targets:
        tensors[tensor_name(name, "lora_A")] = torch.randn(8, layers[name].in_features)
        tensors[tensor_name(name, "lora_B")] = 0.01 * torch.randn(layers[name].out_features, 8)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = adapter_config(Slot(8, 16, 0.0, 0), targets, (str(base), None))
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.slow
def test_a_large_base_is_not_held_whole(tmp_path: Path):
    torch.manual_seed(0)
    num_bytes = save_base(tmp_path / "large")
    save_base(tmp_path / "small", hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4)
    for name in ("large", "small"):
        save_adapter(tmp_path / f"{name}-adapter", tmp_path / name)

    def words(name: str, out: str, shard_bytes: int) -> str:
        return f"{tmp_path}/{name}-adapter --out {tmp_path}/{out} --max-shard-gb {shard_bytes / 1e9}"

    merges = [words("small", "first", SHARD_BYTES), words("large", "cut", SHARD_BYTES), words("large", "whole", 10**10)]
    command = [sys.executable, "-m", "tests.unit.adapters.measured_merge", str(tmp_path / "bytes.json"), *merges]
    # What is held is measured, and not what malloc keeps of it: of large blocks it then keeps none.
    freeing = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": "0"}
    env = {**os.environ, **freeing, "RAYLORA_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=REPOSITORY, env=env, check=True, capture_output=True)
    _, cut, whole = json.loads((tmp_path / "bytes.json").read_text())
    assert num_bytes > 200_000_000
    assert cut < num_bytes / 2
    assert whole > 0.8 * num_bytes, "a file's tensors are held together, which shows that held ones are counted"
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > num_bytes // SHARD_BYTES
    assert torch.equal(*(weight_of(tmp_path / out, LAYER) for out in ("cut", "whole")))
    assert torch.equal(weight_of(tmp_path / "cut", LAYER), merged_by_hand(tmp_path))


def weight_of(folder: Path, module: str) -> Tensor:
    found = (read(file, f"{module}.weight") for file in folder.glob("*.safetensors"))
    return next(tensor for tensor in found if tensor is not None)


def read(file: Path, name: str) -> Tensor | None:
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(name) if name in tensors.keys() else None  # noqa: SIM118


def merged_by_hand(home: Path) -> Tensor:
    matrices = load_file(home / "large-adapter" / "adapter_model.safetensors")
    a_RI, b_OR = (matrices[tensor_name(LAYER, matrix)] for matrix in ("lora_A", "lora_B"))
    return (weight_of(home / "large", LAYER).float() + 2 * (b_OR @ a_RI)).to(torch.bfloat16)
