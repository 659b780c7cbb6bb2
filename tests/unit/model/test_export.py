"""What no server should load is not kept: adapters without values, of a wrong shape, or not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raylora.errors import RunFailedError
from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import MAGNITUDE, tensor_name
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.export import FOLDER, adapter_files, publish_adapter
from raylora.store.blob import open_store
from raylora.store.manifest import read_manifest, read_verified
from tests.unit.train.tiny_run import build_tiny, save_materials, tiny_spec

RANK, INPUTS, OUTPUTS = 4, 6, 5
LAYER = "model.layers.0.q_proj"
A, B, SIZES = (tensor_name(LAYER, matrix) for matrix in ("lora_A", "lora_B", MAGNITUDE))
GOOD = {A: torch.ones(RANK, INPUTS), B: torch.ones(OUTPUTS, RANK), SIZES: torch.ones(OUTPUTS)}
BROKEN: dict[str, dict[str, Tensor]] = {
    "empty": {A: torch.ones(RANK, 0)},
    "1-D": {A: torch.ones(RANK * INPUTS)},
    "3-D": {B: torch.ones(1, OUTPUTS, RANK)},
    "NaN": {B: torch.full((OUTPUTS, RANK), torch.nan)},
    "one Inf": {A: torch.ones(RANK, INPUTS).index_fill_(1, torch.tensor(3), torch.inf)},
    "A of another rank": {A: torch.ones(RANK + 1, INPUTS)},
    "B the other way round": {B: torch.ones(RANK, OUTPUTS)},
    "a magnitude that is a matrix": {SIZES: torch.ones(OUTPUTS, 1)},
    "A for other inputs": {A: torch.ones(RANK, INPUTS - 1)},
    "B for other outputs": {B: torch.ones(OUTPUTS + 1, RANK)},
    "magnitudes for other outputs": {SIZES: torch.ones(INPUTS)},
}


def adapter(tensors: dict[str, Tensor]) -> Adapter:
    return Adapter(tensors, {"peft_type": "LORA", "r": RANK}, {LAYER: (OUTPUTS, INPUTS)})


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_adapter_is_not_kept_and_the_one_before_stays(tmp_path: Path, damage: str):
    store = open_store(str(tmp_path))
    publish_adapter(store, adapter(GOOD), {"number": 1})
    with pytest.raises(RunFailedError, match=r"1 of 3 tensors are empty, of a wrong shape, or not finite.*not kept"):
        publish_adapter(store, adapter(GOOD | BROKEN[damage]), {"number": 2})
    manifest = read_manifest(store, FOLDER)
    assert manifest.about == {"number": 1}
    for name in manifest.files:
        read_verified(store, FOLDER, name, manifest)


def test_an_adapter_without_tensors_is_not_kept(tmp_path: Path):
    store = open_store(str(tmp_path))
    with pytest.raises(RunFailedError, match="0 of 0 tensors"):
        publish_adapter(store, adapter({}), {})
    assert store.keys() == []


@pytest.mark.parametrize("fields", [{}, {"init_lora_weights": "pissa"}, {"adapter_bank": "peft"}], ids=str)
def test_banks_tell_what_the_layers_ask_of_an_adapter(tmp_path: Path, fields: dict[str, object]):
    home = save_materials(tmp_path, 8)
    fields = {"use_dora": "init_lora_weights" not in fields, **fields}
    trainee = build_tiny(tiny_spec(home / "base", home / "rows.jsonl", **fields))
    found = trainee.bank.export(0)
    assert adapter_files(found)
    linear = {name: layer for name, layer in trainee.model.named_modules() if isinstance(layer, FrozenLinear)}
    shapes = {name.removesuffix(".base_layer"): layer.shape for name, layer in linear.items()}
    assert found.layers == {name: shapes[name] for name in found.layers}
    for name, tensor in found.tensors.items():
        wider = tensor.repeat(1, 2) if ".lora_A." in name else tensor.repeat(*(2, 1)[: tensor.ndim])
        with pytest.raises(RunFailedError, match="1 of "):
            adapter_files(replace(found, tensors=found.tensors | {name: wider}))


def test_a_layers_own_rank_is_what_the_pattern_says(tmp_path: Path):
    store, last = open_store(str(tmp_path)), {"peft_type": "LORA", "r": 9, "rank_pattern": {"q_proj": RANK}}
    dotted = {**last, "rank_pattern": {r"^model\.layers\.0\.q_proj": RANK, "k_proj": 2}}
    for config in (last, dotted):
        publish_adapter(store, Adapter(GOOD, config), {})
        read_verified(store, FOLDER, "adapter_model.safetensors", read_manifest(store, FOLDER))
    for wrong in ({"q_proj": RANK + 1}, {"proj": RANK}, {r"layers\.1\.q_proj": RANK}):
        with pytest.raises(RunFailedError, match="2 of 3 tensors are empty, of a wrong shape"):
            publish_adapter(store, Adapter(GOOD, {**last, "rank_pattern": wrong}), {})
