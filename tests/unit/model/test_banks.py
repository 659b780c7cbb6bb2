"""Both banks: dropout masks follow from where training stands, slots keep to themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from raylora.errors import ModelError
from raylora.model.adapter.slot import Slot
from raylora.model.bank.packed import PackedBank
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.rows.route import Span
from tests.unit.train.tiny_run import CPU, build_tiny, open_rows, run_steps, save_materials, tiny_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("banks"), 40)


def losses_of(home: Path, **fields: object) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    spec = tiny_spec(home / "base", home / "rows.jsonl", gradient_accumulation_steps=2, **fields)
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    results = run_steps(trainee, rows, range(4))
    return [r.loss for r in results], [r.grad_norm for r in results], trainee.bank.export(0).tensors


@pytest.mark.parametrize("bank", ["packed", "peft"])
@pytest.mark.parametrize("base", [{}, {"load_in_4bit": True}], ids=["plain", "nf4"])
def test_masks_repeat_when_blocks_are_recomputed(home: Path, bank: str, base: dict[str, object]):
    fields = {"adapter_bank": bank, "lora_dropout": 0.3, **base}
    kept = losses_of(home, **fields)
    recomputed = losses_of(home, **fields, gradient_checkpointing=True)
    assert recomputed[0] == pytest.approx(kept[0], abs=1e-6)
    assert recomputed[1] == pytest.approx(kept[1], rel=1e-5)
    assert losses_of(home, **fields)[0] == kept[0]
    without = losses_of(home, adapter_bank=bank, **base)
    assert without[0] != kept[0]


def test_an_adapter_of_pefts_that_changes_the_base_is_refused(home: Path):
    block = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "init_lora_weights": "pissa"}
    spec = tiny_spec(home / "base", home / "rows.jsonl", lora_r=16, lora_alpha=32, peft=block)
    with pytest.raises(ModelError, match="LORA with these fields changes weights of the frozen base"):
        build_tiny(spec)


def packed(*slots: Slot) -> tuple[nn.ModuleDict, PackedBank]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": FrozenLinear(nn.Linear(64, 48))}).requires_grad_(False)
    bank = PackedBank(model, ("tiny", None), CPU)
    for k, slot in enumerate(slots):
        bank.admit(k, slot, ["layer"])
        torch.manual_seed(slot.seed)
        bank.parameters(k)["layer.lora_B"].data.normal_()
    return model, bank


def test_masks_differ_by_step_row_and_seed():
    seen = []
    for seed in (0, 1):
        model, bank = packed(Slot(4, 8.0, 0.5, seed))
        bank.load(0, {name: torch.ones_like(tensor) for name, tensor in bank.export(0).tensors.items()})
        for step, rows in ((0, [0, 1]), (1, [0, 1]), (0, [0, 2]), (0, [3, 1])):
            bank.route([Span(0, step=step, rows=tuple((row, 3) for row in rows))])
            first = model["layer"](torch.ones(2, 3, 64))
            assert torch.equal(model["layer"](torch.ones(2, 3, 64)), first)
            seen.append(first)
    assert len({tuple(y.flatten().tolist()) for y in seen}) == len(seen)


def test_a_rows_mask_is_its_own_wherever_it_lies():
    model, bank = packed(Slot(4, 8.0, 0.5, 1))
    x = torch.randn(9, 64)
    bank.route([Span(0, step=3, rows=((7, 5), (4, 4)))])
    first, second = model["layer"](x).split([5, 4])
    bank.route([Span(0, step=3, rows=((4, 4), (7, 5)))])
    assert torch.equal(model["layer"](torch.cat([x[5:], x[:5]])), torch.cat([second, first]))


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    model, bank = packed(Slot(8, 8.0, 0.25, 0))
    x = torch.ones(1, 1, 64)
    bank.route([Span(0)])
    bank.train(False)
    whole = model["layer"](x)
    bank.train(True)
    drawn = []
    for step in range(2000):
        bank.route([Span(0, step=step)])
        drawn.append(model["layer"](x))
    spread = torch.stack(drawn).std(dim=0) / 2000**0.5
    assert ((torch.stack(drawn).mean(dim=0) - whole).abs() < 5 * spread).all()
    bank.train(False)
    assert torch.equal(model["layer"](x), whole)


def gradients(bank: PackedBank, slot: int, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(bank.parameters(slot).values()), retain_graph=True))


def test_each_slot_computes_bit_for_bit_as_if_it_were_alone():
    """Ragged spans, ranks and dropouts; tokens of nobody in between slots and at the end."""
    slots = (Slot(4, 8.0, 0.0, 1), Slot(8, 4.0, 0.3, 2), Slot(3, 2.0, 0.1, 3))
    lengths = (5, 16, 1)
    model, bank = packed(*slots)
    x = torch.randn(sum(lengths) + 4, 64)
    spans = [Span(k, length, step=k) for k, length in enumerate(lengths)]
    bank.route([spans[0], Span(-1, 2), *spans[1:]])
    together = model["layer"](x)
    starts = [0, 5 + 2, 5 + 2 + 16]
    for k, slot in enumerate(slots):
        alone, bank_of_one = packed(slot)
        bank_of_one.route([Span(0, step=k)])
        part = slice(starts[k], starts[k] + lengths[k])
        mine = alone["layer"](x[part])
        assert torch.equal(mine, together[part])
        for ours, theirs in zip(gradients(bank_of_one, 0, mine), gradients(bank, k, together[part]), strict=True):
            assert torch.equal(ours, theirs)
    bank.route([])
    assert torch.equal(torch.cat([together[5:7], together[-2:]]), model["layer"](torch.cat([x[5:7], x[-2:]])))


def test_a_released_slot_is_gone_and_its_place_is_free():
    model, bank = packed(Slot(4, 8.0, 0.0, 1), Slot(8, 4.0, 0.0, 2))
    x = torch.randn(6, 64)
    bank.route([Span(1)])
    before = model["layer"](x)
    bank.release(0)
    assert torch.equal(model["layer"](x), before)
    bank.admit(0, Slot(2, 4.0, 0.0, 5), ["layer"])
    assert set(bank.parameters(0)) == set(bank.parameters(1))
    assert bank.parameters(0)["layer.lora_A"].shape == (2, 64)


@pytest.mark.parametrize("base", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}], ids=["plain", "nf4", "int8"])
def test_a_weight_read_for_a_start_is_the_one_that_the_base_holds(home: Path, base: dict[str, object]):
    trainee = build_tiny(tiny_spec(home / "base", home / "rows.jsonl", **base))
    from_layers, from_files = (BaseWeights(trainee.model, home / "base", CPU, is_cut) for is_cut in (False, True))
    plain = LlamaForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.2.mlp.down_proj"):
        layer = trainee.model.get_submodule(name)
        held = layer.whole(layer.held.detach(), torch.float32)
        for weights in (from_layers, from_files):
            assert torch.equal(weights.held(name), held)
            assert torch.equal(weights.original(name), plain.get_submodule(name).weight)
        assert torch.equal(held, from_layers.original(name)) == (not base)
