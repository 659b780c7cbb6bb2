"""Adapters that PEFT made and saved, with random values everywhere, and what is merged from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from raylora.adapters.base import BasePlace, open_base
from raylora.adapters.layers import deltas
from raylora.adapters.merging.merge import Merged, write_merged
from raylora.adapters.merging.plan import MergeSettings, plan_merge
from raylora.adapters.stored import read_adapter
from raylora.model.adapter.bank import Adapter
from raylora.model.export import publish_adapter
from raylora.model.rows.route import Span
from raylora.store.blob import Store, open_store
from raylora.train.trainee import Trainee

TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 6, r"model\.layers\.1\.mlp\.down_proj": 2},
    "alpha_pattern": {"v_proj": 3},
}


def load_model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def save_adapter(base: Path, folder: Path, **fields: Any) -> Path:
    """Save an adapter as PEFT does; its update is not zero."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **fields}
    model = get_peft_model(load_model(base), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
        if "lora_magnitude" in name:
            parameter.data.mul_(torch.rand(len(parameter)) + 0.5)
    model.save_pretrained(folder)
    return folder


def publish_again(adapter: Path, store: Store, **about: object) -> str:
    """Publish an adapter of PEFT's as raylora does its own; returns the URI."""
    stored = read_adapter(str(adapter))
    return publish_adapter(store, Adapter(dict(stored.tensors), dict(stored.config)), about)


def merge(adapter: str | Path, base: Path, out: Path, **settings: Any) -> Merged:
    """Merge into a folder."""
    stored = read_adapter(str(adapter))
    place = BasePlace(str(base))
    opened = open_base(stored, place, out.with_name("cache"))
    plan = plan_merge(stored, deltas(stored, place), opened, MergeSettings(**settings))
    out.mkdir()
    return write_merged(plan, out)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whatever the files."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def replace_tensors(folder: Path, changes: Mapping[str, Tensor]) -> None:
    """Write a folder's one file again, with some tensors changed."""
    # Copies: what was read lies in the file that is written over.
    kept = {name: tensor.clone() for name, tensor in tensors_of(folder).items()}
    save_file({**kept, **changes}, folder / "model.safetensors", {"format": "pt"})


def adapted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those with an update."""
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[-2] in TARGETS}


def by_peft(base: Path, adapter: str | Path) -> dict[str, Tensor]:
    """What PEFT merges."""
    return dict(PeftModel.from_pretrained(load_model(base), adapter).merge_and_unload().state_dict())


def assert_merged(out: Path, base: Path, adapter: str | Path) -> None:
    """The tensors are the base's by name, and PEFT's by value."""
    found, before, wanted = tensors_of(out), tensors_of(base), by_peft(base, adapter)
    assert found.keys() == before.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert changed == adapted(found).keys()


def assert_answers_as_trained(trainee: Trainee, base: Path, folder: Path) -> None:
    """What slot 0 trained, published and merged into its base, has PEFT's tensors and the slot's own logits."""
    uri = publish_adapter(open_store(str(folder / "store")), trainee.bank.export(0), {})
    merge(uri, base, folder / "out")
    assert_merged(folder / "out", base, uri)
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    with torch.no_grad():
        found, wanted = load_model(folder / "out")(IDS).logits, trainee.model(IDS).logits
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        assert not torch.allclose(found, load_model(base)(IDS).logits, atol=1e-2)
