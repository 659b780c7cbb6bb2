"""Plans of sweeps over a `peft:` block: its fields are knobs, each block is tried before anything starts."""

from __future__ import annotations

import pytest

from raylora.errors import ModelError
from tests.unit.sweep.planned_sweeps import STEPS, grid, machine, only, plan


def test_a_block_of_pefts_is_varied_field_by_field() -> None:
    loha = {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": ["q_proj"]}
    run = {**STEPS, "lora_r": 16, "peft": loha}
    alone = only(plan(grid({"peft.r": {"choice": [2, 8]}}, run), machine(cores=2)))
    assert alone.why_alone is not None and "peft holds one adapter" in alone.why_alone
    assert alone.largest.peft == {**loha, "r": 8}
    assert alone.duration is None


def test_every_block_of_a_space_is_tried_before_anything_starts() -> None:
    loha = {"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj"]}
    with pytest.raises(ModelError, match="r: got 0; allowed: a whole number of at least 1"):
        plan(grid({"peft.r": {"choice": [2, 0]}}, {"lora_r": 16, "peft": loha}), machine(cores=2))
