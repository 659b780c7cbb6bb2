"""The flat stepper against torch's own loop over parameters; its state over a save and a load."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from bitsandbytes.optim.adamw import AdamW as BitsandbytesAdamW
from torch import Tensor, nn

from raylora.errors import StoreError
from raylora.strategy.contract import OptimizerFactory
from raylora.strategy.flat import FlatStepper

ADAMW = functools.partial(torch.optim.AdamW, lr=0.0, weight_decay=0.1, fused=True)
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "torch": ADAMW,
    "bitsandbytes": functools.partial(BitsandbytesAdamW, lr=0.0, optim_bits=32),
    "bitsandbytes-8bit": functools.partial(BitsandbytesAdamW, lr=0.0, optim_bits=8),
}
ONE_RATE = {"layer.lora_A": 1.0, "layer.lora_B": 1.0}
TWO_RATES = {"layer.lora_A": 1.0, "layer.lora_B": 4.0}


def parameters() -> dict[str, nn.Parameter]:
    """Enough values that bitsandbytes packs their moments."""
    torch.manual_seed(0)
    return {"layer.lora_A": nn.Parameter(torch.randn(1, 8, 700)), "layer.lora_B": nn.Parameter(torch.randn(1, 9, 8))}


def loss_of(named: dict[str, nn.Parameter], step: int, part: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * step + part)
    return sum(((p - torch.randn(p.shape, generator=generator)) ** 2).mean() for p in named.values())


def run(stepper: FlatStepper, named: dict[str, nn.Parameter], steps: range) -> list[float]:
    norms = []
    for step in steps:
        for part in range(2):
            stepper.backward(loss_of(named, step, part))
        norms.append(stepper.step(1e-2))
    return norms


def copied(stepper: FlatStepper) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in stepper.state()}


@pytest.mark.parametrize("max_norm", [0.0, 0.05, 100.0], ids=["unclipped", "clipped", "below"])
def test_steps_are_those_of_torch(max_norm: float):
    ours, theirs = parameters(), parameters()
    norms = run(FlatStepper(ours, ADAMW, max_norm, ONE_RATE), ours, range(5))
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=0.1)
    for step, norm in enumerate(norms):
        optimizer.zero_grad()
        for part in range(2):
            loss_of(theirs, step, part).backward()
        expected = float(nn.utils.clip_grad_norm_(theirs.values(), max_norm or float("inf")))
        assert norm == pytest.approx(expected, rel=1e-5)
        optimizer.step()
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name].data, parameter.data, rtol=1e-5, atol=1e-6)


def test_the_norm_of_millions_of_values_is_exact():
    torch.manual_seed(0)
    named = {str(number): nn.Parameter(torch.randn(16, 1536)) for number in range(200)}
    stepper = FlatStepper(named, ADAMW, 0.0, dict.fromkeys(named, 1.0))
    values = {name: parameter.detach().clone() for name, parameter in named.items()}
    stepper.backward(sum((parameter**2).sum() for parameter in named.values()) / 2)
    whole = torch.cat([value.flatten() for value in values.values()]).double()
    assert stepper.step(0.0) == pytest.approx(float(whole.norm()), rel=1e-6)


@pytest.mark.parametrize("rates", [TWO_RATES, {"layer.lora_A": 2.0, "layer.lora_B": 0.5}], ids=["faster", "slower"])
def test_parameters_of_another_rate_move_by_it(rates: dict[str, float]):
    """One norm for all, and a rate each."""
    ours, theirs = parameters(), parameters()
    norms = run(FlatStepper(ours, ADAMW, 0.05, rates), ours, range(5))
    groups = [{"params": [parameter], "lr": 1e-2 * rates[name]} for name, parameter in theirs.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    for step, norm in enumerate(norms):
        optimizer.zero_grad()
        for part in range(2):
            loss_of(theirs, step, part).backward()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.values(), 0.05)), rel=1e-5)
        optimizer.step()
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name].data, parameter.data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rates", [ONE_RATE, TWO_RATES], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_bit_for_bit(name: str, rates: dict[str, float]):
    whole = parameters()
    stepper = FlatStepper(whole, OPTIMIZERS[name], 1.0, rates)
    run(stepper, whole, range(3))
    state, values = copied(stepper), {key: p.detach().clone() for key, p in whole.items()}
    run(stepper, whole, range(3, 6))
    resumed = parameters()
    other = FlatStepper(resumed, OPTIMIZERS[name], 1.0, rates)
    run(other, resumed, range(1))  # what was there before is forgotten
    for key, value in values.items():
        resumed[key].data.copy_(value)
    other.load_state(state)
    run(other, resumed, range(3, 6))
    for key, parameter in whole.items():
        assert torch.equal(resumed[key], parameter), key


@pytest.mark.parametrize("saved_by, here", [("torch", "bitsandbytes-8bit"), ("bitsandbytes", "torch")])
def test_moments_of_another_kind_of_optimizer_are_refused_in_words(saved_by: str, here: str):
    """Those of paged optimizers that come from a device of another kind, and of older 8-bit ones from CPUs."""
    theirs, ours = parameters(), parameters()
    stepper = FlatStepper(theirs, OPTIMIZERS[saved_by], 1.0, ONE_RATE)
    run(stepper, theirs, range(2))
    other = FlatStepper(ours, OPTIMIZERS[here], 1.0, ONE_RATE)
    run(other, ours, range(1))
    before = copied(other)
    names = {"torch": "torch's AdamW (exp_avg, exp_avg_sq)"}
    of_bitsandbytes = "bitsandbytes' AdamW (state1, state2)"
    said = f"moments are {names.get(saved_by, of_bitsandbytes)}; wanted here: {names.get(here, of_bitsandbytes)}"
    with pytest.raises(StoreError, match=re.escape(said)):
        other.load_state(dict(stepper.state()))
    assert all(torch.equal(before[name], tensor) for name, tensor in copied(other).items())


def test_state_is_by_parameter_and_empty_before_the_first_step():
    named = parameters()
    stepper = FlatStepper(named, ADAMW, 0.0, ONE_RATE)
    assert not list(stepper.state())
    stepper.load_state({})
    run(stepper, named, range(2))
    state = dict(stepper.state())
    assert set(state) == {"step", *(f"{m}.{name}" for m in ("exp_avg", "exp_avg_sq") for name in named)}
    assert {name: state[f"exp_avg.{name}"].shape for name in named} == {name: p.shape for name, p in named.items()}
    assert state["step"] == 2


def test_float32_weights_that_an_engine_kept_beside_its_moments_are_not_taken_up():
    named = parameters()
    stepper = FlatStepper(named, ADAMW, 0.0, ONE_RATE)
    run(stepper, named, range(2))
    state = copied(stepper)
    stepper.load_state(state | {f"master.{name}": parameter.detach().clone() for name, parameter in named.items()})
    assert set(copied(stepper)) == set(state)


def test_a_gradient_that_is_not_finite_updates_nothing_and_is_forgotten():
    named = parameters()
    stepper = FlatStepper(named, ADAMW, 1.0, ONE_RATE)
    run(stepper, named, range(2))
    before, state = {key: p.detach().clone() for key, p in named.items()}, copied(stepper)
    stepper.backward(loss_of(named, 2, 0) * float("inf"))
    assert not torch.isfinite(torch.tensor(stepper.step(1e-2)))
    assert all(torch.equal(named[key], value) for key, value in before.items())
    after = copied(stepper)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert all(torch.isfinite(torch.tensor(run(stepper, named, range(3, 4)))))


def test_who_is_told_of_an_update_finds_new_values_and_the_clipped_gradient():
    named = parameters()
    stepper = FlatStepper(named, ADAMW, 0.05, ONE_RATE)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    seen: list[float] = []

    def look() -> None:
        seen.append(float(torch.cat([parameter.grad.flatten() for parameter in named.values()]).norm()))
        assert not any(torch.equal(named[name], value) for name, value in before.items())

    stepper.backward(loss_of(named, 1, 0))
    assert stepper.step(1e-2, look) > 0.05
    assert seen == pytest.approx([0.05], rel=1e-4)
    stepper.backward(loss_of(named, 2, 0) * float("inf"))
    stepper.step(1e-2, look)
    assert len(seen) == 1, "nothing was updated"
