"""AdaLoRA's layer is PEFT's, its start is its seed's, and what is published has the ranks that are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import AdaLoraConfig
from peft.tuners.adalora import SVDLinear
from torch import Tensor, nn

from raylora.errors import RunFailedError
from raylora.model.adapter.adalora import pruned
from raylora.model.adapter.slot import Slot
from raylora.model.bank.packed import PackedBank
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.export import adapter_files
from raylora.model.rows.route import Placed, Span
from tests.unit.model.tiny import Kept

CPU = torch.device("cpu")
SETTINGS = Slot(4, 8.0, 0.0, 3, use_adalora=True)
E = "base_model.model.{}.lora_E"


def bank_of(linear: nn.Linear, *others: nn.Linear) -> tuple[nn.ModuleDict, PackedBank]:
    layers = {f"layer{number}": FrozenLinear(each) for number, each in enumerate((linear, *others))}
    model = nn.ModuleDict(layers).requires_grad_(False)
    return model, PackedBank(model, ("tiny", None), CPU)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
def test_a_layer_is_pefts_with_bias_and_dropout(has_bias: bool, dropout: float):
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=has_bias)
    theirs = SVDLinear(linear, "default", AdaLoraConfig(total_step=10), r=4, lora_alpha=8)
    model, bank = bank_of(linear)
    bank.admit(0, replace(SETTINGS, dropout=dropout), ["layer0"])
    mine = bank.parameters(0)
    others = {f"layer0.{name}": getattr(theirs, name)["default"] for name in ("lora_A", "lora_B", "lora_E")}
    for name, parameter in mine.items():
        parameter.data.normal_(std=0.3)
        others[name].data.copy_(parameter.data)
    x = torch.randn(10, 24, requires_grad=True)
    bank.route([Span(0)])
    if dropout:
        tokens = bank._layers["layer0"]._tokens(x, [Placed(0, len(x), Span(0))])
        theirs.lora_dropout["default"] = Kept(tokens.of(torch.ones_like(x)))
    weights = torch.randn(10, 40)
    made, wanted = model["layer0"](x), theirs(x)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad((made * weights).sum(), [x, *mine.values()])
    expected = torch.autograd.grad((wanted * weights).sum(), [x, *(others[name] for name in mine)])
    for ours, peft in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-4)


def test_a_start_follows_from_the_seed_and_the_layer():
    torch.manual_seed(0)
    model, bank = bank_of(nn.Linear(24, 24), nn.Linear(24, 24))
    for slot, seed in enumerate((3, 3, 4)):
        bank.admit(slot, replace(SETTINGS, seed=seed), list(model))
    first, again, other = (bank.parameters(slot) for slot in range(3))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name])
        assert torch.equal(parameter, other[name]) is name.endswith("lora_E")
    assert not torch.equal(first["layer0.lora_A"], first["layer1.lora_A"])


def test_ranks_without_a_value_are_not_published_and_the_update_stays():
    torch.manual_seed(0)
    model, bank = bank_of(nn.Linear(24, 40), nn.Linear(16, 8))
    bank.admit(0, SETTINGS, list(model))
    values = {"layer0": [0.5, 0.0, -1.0, 0.0], "layer1": [0.0] * 4}
    for name, each in values.items():
        bank.parameters(0)[f"{name}.lora_E"].data.copy_(torch.tensor(each)[:, None])
    whole = bank.export(0)
    left = pruned(whole)
    assert left.config["rank_pattern"] == {f"{name}.lora_E": [each != 0 for each in of] for name, of in values.items()}
    assert [len(left.tensors[E.format(name)]) for name in values] == [2, 0]
    for name in values:
        a, b, e = (f"base_model.model.{name}.lora_{matrix}" for matrix in "ABE")
        was, now = ((each[b] @ (each[e] * each[a])) for each in (whole.tensors, left.tensors))
        torch.testing.assert_close(was, now)
    assert adapter_files(left) and adapter_files(whole)


@pytest.mark.parametrize(
    "damage", [torch.ones(4), torch.ones(3, 1), torch.full((4, 1), torch.nan)], ids=["flat", "short", "NaN"]
)
def test_values_of_a_wrong_shape_or_not_finite_are_not_kept(damage: Tensor):
    model, bank = bank_of(nn.Linear(24, 40))
    bank.admit(0, SETTINGS, list(model))
    adapter = bank.export(0)
    assert adapter_files(adapter)
    with pytest.raises(RunFailedError, match="1 of 3 tensors are empty, of a wrong shape, or not finite"):
        adapter_files(replace(adapter, tensors=adapter.tensors | {E.format("layer0"): damage}))
