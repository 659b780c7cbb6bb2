"""What is timed when a step is foretold: all that the step does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from raylora.spec.run import RunSpec
from raylora.train.allocation import Allocation
from raylora.train.optim import AdamWFactory
from raylora.train.prediction import forecast as forecast_module
from raylora.train.prediction.forecast import forecast

CONFIG = LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "is_judged", "is_penalised"),
    [
        ({}, False, False),
        ({"adapter": "adalora", "target_r": 2}, True, True),
        ({"adapter": "adalora", "target_r": 2, "tinit": 3, "tfinal": 5, "orth_reg_weight": 0}, True, False),
    ],
)
def test_adalora_is_timed_with_what_it_does_beside_its_rows(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], is_judged: bool, is_penalised: bool
) -> None:
    """Ranks are taken away in the steps that are timed: the allocator itself says so."""
    monkeypatch.setattr(forecast_module, "MIN_S", 0.0)
    judged, penalties = list[int](), list[Any]()
    after_update, penalty = Allocation.after_update, Allocation.penalty

    def judge(allocation: Allocation, step: int) -> None:
        after_update(allocation, step)
        judged.append(sum(allocation.ranks.values()))

    def penalise(allocation: Allocation) -> Any:
        penalties.append(penalty(allocation))
        return penalties[-1]

    monkeypatch.setattr(Allocation, "after_update", judge)
    monkeypatch.setattr(Allocation, "penalty", penalise)
    settled: dict[str, Any] = {"base_model": "base", "datasets": [{"path": "rows"}], "lora_r": 4, "dtype": "float32"}
    found = forecast(RunSpec.model_validate(settled | fields), CONFIG, 2, 8, torch.device("cpu"))
    assert found.update_s > 0
    assert bool(judged) == is_judged
    assert all(left < 4 * 7 * 2 for left in judged)
    assert any(each is not None for each in penalties) == is_penalised


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({}, torch.float32),
        ({"adapter": "full"}, torch.bfloat16),
        ({"adapter": "full", "distributed": {"strategy": "deepspeed", "zero_stage": 2}}, torch.float32),
    ],
    ids=["adapter", "full", "full-zero2"],
)
def test_updates_are_timed_in_the_dtype_that_they_are_made_in(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], dtype: torch.dtype
) -> None:
    """Of a base in bfloat16: its own weights, an adapter in float32, or the float32 copy of DeepSpeed's engine."""
    monkeypatch.setattr(forecast_module, "MIN_S", 0.0)
    made, timed = AdamWFactory.__call__, list[torch.dtype]()

    def make(factory: AdamWFactory, parameters: list[Any]) -> Any:
        timed.extend(parameter.dtype for group in parameters for parameter in group["params"])
        return made(factory, parameters)

    monkeypatch.setattr(AdamWFactory, "__call__", make)
    settled: dict[str, Any] = {"base_model": "base", "datasets": [{"path": "rows"}], "lora_r": 4, "dtype": "bfloat16"}
    forecast(RunSpec.model_validate(settled | fields), CONFIG, 1, 8, torch.device("cpu"))
    assert timed == [dtype]
