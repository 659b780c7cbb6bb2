"""VeRA's random matrices: held once, gone with the last adapter, and few values that train."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from raylora.model.adapter.slot import Slot, VeraStart
from raylora.model.bank.packed import PackedBank
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.targets import adapter_values
from tests.unit.model.tiny import spec_of, tiny_config

SLOT = Slot(12, 1.0, 0.0, 1, vera=VeraStart(5, 0.1))
TARGETS = ["wide", "narrow"]


@pytest.fixture
def bank() -> PackedBank:
    layers = {"wide": nn.Linear(24, 40), "narrow": nn.Linear(16, 8)}
    model = nn.ModuleDict({name: FrozenLinear(layer) for name, layer in layers.items()})
    return PackedBank(model.requires_grad_(False), ("tiny", None), torch.device("cpu"))


def held(bank: PackedBank, slot: int) -> set[int]:
    return {tensor.data_ptr() for tensor in bank.frozen(slot)}


def test_adapters_of_one_key_and_rank_share_their_matrices(bank: PackedBank):
    for slot, settings in enumerate((SLOT, replace(SLOT, seed=2), replace(SLOT, r=6))):
        bank.admit(slot, settings, TARGETS)
    bank.admit(3, replace(SLOT, vera=VeraStart(6, 0.1)), TARGETS)
    assert held(bank, 0) == held(bank, 1)
    assert len(held(bank, 0)) == 2
    assert not held(bank, 0) & held(bank, 2)
    assert not held(bank, 0) & held(bank, 3)
    assert {tuple(tensor.shape) for tensor in bank.frozen(0)} == {(12, 24), (40, 12)}


def test_they_go_with_the_last_adapter(bank: PackedBank):
    bank.admit(0, SLOT, TARGETS)
    bank.admit(1, SLOT, TARGETS)
    bank.release(0)
    assert len(bank._projections._held) == 1
    bank.release(1)
    gc.collect()
    assert len(bank._projections._held) == 0


def test_one_value_trains_for_each_rank_and_each_output(bank: PackedBank):
    bank.admit(0, SLOT, TARGETS)
    assert sum(parameter.numel() for parameter in bank.parameters(0).values()) == (12 + 40) + (12 + 8)
    spec = spec_of("base", adapter="vera", lora_r=100, lora_target_modules=["q_proj", "k_proj"])
    with torch.device("meta"):
        model = LlamaForCausalLM(tiny_config())
    assert adapter_values(model, spec) == 2 * ((100 + 32) + (100 + 16)), "of two layers; ranks may exceed a side"
