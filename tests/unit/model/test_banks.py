"""Both banks: rank padding stays zero, dropout masks follow from where training stands, slots keep to themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from raylora.model.low_rank import BUCKETS, Slot, rank_bucket
from raylora.model.packed_bank import PackedBank
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


@pytest.mark.parametrize(("r", "bucket"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (512, 512), (700, 700)])
def test_ranks_go_to_the_next_bucket(r: int, bucket: int):
    assert rank_bucket(r) == bucket
    assert bucket in BUCKETS or bucket > BUCKETS[-1]


def test_padding_of_the_rank_stays_exactly_zero(home: Path):
    spec = tiny_spec(home / "base", home / "rows.jsonl", lora_r=5, weight_decay=0.1)
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    run_steps(trainee, rows, range(5))
    for name, parameter in trainee.bank.parameters().items():
        used, padding = (
            (parameter[:, :5], parameter[:, 5:]) if "lora_A" in name else (parameter[..., :5], parameter[..., 5:])
        )
        assert padding.numel() and torch.count_nonzero(padding) == 0, name
        assert torch.count_nonzero(used) > 0, name
    assert trainee.bank.num_parameters(0) == sum(t.numel() for t in trainee.bank.export(0).tensors.values())


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


def packed(*slots: Slot) -> tuple[nn.ModuleDict, PackedBank]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(64, 48)}).requires_grad_(False)
    bank = PackedBank(model, ["layer"], slots, ("tiny", None), CPU)
    bank.parameters()["layer.lora_B"].data.normal_()
    return model, bank


def test_masks_differ_by_step_micro_step_rank_and_seed():
    seen = []
    for seed in (0, 1):
        torch.manual_seed(0)
        model, bank = packed(Slot(4, 8.0, 0.5, seed))
        bank.load(0, {name: torch.ones_like(tensor) for name, tensor in bank.export(0).tensors.items()})
        for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            bank.begin(*place)
            first = model["layer"](torch.ones(2, 3, 64))
            assert torch.equal(model["layer"](torch.ones(2, 3, 64)), first)
            seen.append(first)
    assert len({tuple(y.flatten().tolist()) for y in seen}) == len(seen)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    model, bank = packed(Slot(8, 8.0, 0.25, 0))
    x = torch.ones(1, 1, 64)
    bank.train(False)
    whole = model["layer"](x)
    bank.train(True)
    drawn = []
    for step in range(2000):
        bank.begin(step, 0, 0)
        drawn.append(model["layer"](x))
    spread = torch.stack(drawn).std(dim=0) / 2000**0.5
    assert ((torch.stack(drawn).mean(dim=0) - whole).abs() < 5 * spread).all()
    bank.train(False)
    assert torch.equal(model["layer"](x), whole)


def test_each_slot_computes_as_if_it_were_alone():
    slots = (Slot(4, 8.0, 0.0, 1), Slot(8, 4.0, 0.3, 2), Slot(2, 2.0, 0.1, 3))
    model, bank = packed(*slots)
    x = torch.randn(3, 5, 64)
    together = model["layer"](x)
    for k, slot in enumerate(slots):
        alone, bank_of_one = packed(slot)
        bank_of_one.load(0, bank.export(k).tensors)
        assert torch.equal(
            bank_of_one.export(0).tensors["base_model.model.layer.lora_A.weight"],
            bank.export(k).tensors["base_model.model.layer.lora_A.weight"],
        )
        torch.testing.assert_close(alone["layer"](x[k : k + 1]), together[k : k + 1], rtol=1e-5, atol=1e-6)
