"""Learning rates against transformers' own schedules, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from raylora.train.schedule import learning_rate, num_warmup_steps
from tests.unit.train.tiny_run import tiny_spec

NUM_STEPS = 30
THEIRS = {
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "constant": ("constant_with_warmup", {}),
    "warmup_stable_decay": ("warmup_stable_decay", {"num_decay_steps": 6, "decay_type": "linear"}),
}


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", THEIRS)
def test_rates_are_those_of_transformers(name: str, warmup: int):
    spec = tiny_spec(
        Path("base"), Path("rows"), lr_scheduler=name, warmup_steps=warmup, learning_rate=3e-4, decay_ratio=0.2
    )
    kind, settings = THEIRS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = get_scheduler(kind, optimizer, warmup, NUM_STEPS, scheduler_specific_kwargs=settings)
    for step in range(NUM_STEPS):
        assert learning_rate(spec, step, NUM_STEPS) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0.0, None, 0), (0.1, None, 3), (0.11, None, 4), (0.0, 5, 5)])
def test_warmup_is_a_count_or_a_share_rounded_up(ratio: float, steps: int | None, expected: int):
    spec = tiny_spec(Path("base"), Path("rows"), warmup_steps=steps, warmup_ratio=ratio)
    assert num_warmup_steps(spec, NUM_STEPS) == expected
