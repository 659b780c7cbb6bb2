"""Weights in bfloat16 under ZeRO-1 and ZeRO-2: the float32 copy that the engine steps is kept with the moments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contract.master_worker import DECAY, HALF, NORM, RATE, SECOND_HALF, loss_of, parameters
from tests.contract.strategy_group import LATE, Seen, run_group

STAGES = ["zero1", "zero2"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("master")
    return Seen(folder, run_group(folder, program="tests.contract.master_worker", late=LATE))


def by_hand(steps: range) -> dict[str, Any]:
    """AdamW's first steps on weights kept in float32, whose gradients are taken at them in bfloat16; no engine."""
    named = parameters()
    exact = {name: parameter.detach().float() for name, parameter in named.items()}
    first, second = ({name: torch.zeros_like(whole) for name, whole in exact.items()} for _ in range(2))
    for number, step in enumerate(steps, start=1):
        gradients = torch.autograd.grad(loss_of(named, step), list(named.values()))
        norm = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
        for name, gradient in zip(named, gradients, strict=True):
            clipped = gradient.float() * min(1.0, NORM / float(norm))
            first[name] = 0.9 * first[name] + 0.1 * clipped
            second[name] = 0.999 * second[name] + 0.001 * clipped**2
            update = first[name] / (1 - 0.9**number) / ((second[name] / (1 - 0.999**number)).sqrt() + 1e-8)
            exact[name] = exact[name] * (1 - RATE * DECAY) - RATE * update
            named[name].data = exact[name].bfloat16()
    kept = {"exp_avg": first, "exp_avg_sq": second, "master": exact}
    return {f"{kind}.{name}": whole for kind, of_kind in kept.items() for name, whole in of_kind.items()}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("moment", "steps"), [("half", HALF), ("whole", range(SECOND_HALF.stop))])
def test_moments_and_float32_weights_are_those_of_adamw(seen: Seen, stage: str, moment: str, steps: range):
    found, wanted = seen[stage][moment]["state"], by_hand(steps)
    assert found.pop("step") == len(steps)
    assert found.keys() == wanted.keys()
    for name, whole in wanted.items():
        torch.testing.assert_close(torch.tensor(found[name]), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_updates_too_small_for_bfloat16_go_on_bit_for_bit(seen: Seen, stage: str):
    """Moments and float32 weights as well."""
    half, whole, resumed = (seen[stage][of] for of in ("half", "whole", "resumed"))
    assert whole["weights"] != half["weights"], "the updates add up to what bfloat16 can tell"
    assert resumed["weights"] == whole["weights"]
    assert resumed["taken_up"] == half["state"]
    assert resumed["state"] == whole["state"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("under", ["under_ddp", "under_fsdp"])
def test_a_run_goes_on_where_there_is_no_such_copy(seen: Seen, stage: str, under: str):
    """By the engine's moments; and there each update is rounded off by itself."""
    half, found = seen[stage]["half"], seen[stage][under]
    assert found["weights"] == half["weights"]
    kept = {name: rounded(value) for name, value in half["state"].items() if not name.startswith("master")}
    assert found["taken_up"] == kept


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_is_gathered_weight_by_weight(seen: Seen, stage: str):
    """No device holds more of it than a weight in float32, and one that gloo's threads have not let go of yet."""
    largest_bytes = 4 * max(parameter.numel() for parameter in parameters().values())
    found = seen[stage]["gathering"]
    assert found["num_seen"] == 2 * [3 * len(parameters()) + 1]
    assert all(largest_bytes <= peak_bytes <= 2 * largest_bytes for peak_bytes in found["peak_bytes"])


def rounded(value: Any) -> Any:
    """As bfloat16 has it."""
    return torch.tensor(value).bfloat16().float().tolist()
