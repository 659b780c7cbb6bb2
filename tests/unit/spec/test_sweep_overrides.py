"""What `--set` reaches of a sweep and of its run, and what is told where it reaches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.spec.fields.knobs import Choice
from tests.unit.spec.sweep_texts import REST, RUN, load_text, problems_of


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("num_trials=8", "num_trials", 8),
        ("lora_alpha=4", "run.lora_alpha", 4),
        ("lora_rank=4", "run.lora_r", 4),
        ("run.seed=4", "run.seed", 4),
        ("sweep.seed=4", "seed", 4),
        ("budget.steps=9", "budget.steps", 9),
        ("distributed.num_workers=2", "run.distributed.num_workers", 2),
    ],
)
def test_an_override_reaches_the_sweep_or_its_run(tmp_path: Path, override: str, path: str, value: Any):
    text = RUN + "num_trials: 4\nspace: {weight_decay: {choice: [0.0, 0.1]}}\n"
    found: Any = load_text(tmp_path, text, [override]).spec
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_steps_of_the_command_line_win_over_the_files_budget(tmp_path: Path):
    assert load_text(tmp_path, RUN + REST + "budget: {steps: 40}", ["max_steps=10"]).spec.max_t == 10
    both = load_text(tmp_path, RUN + REST + "budget: {tokens: 40}", ["max_steps=10"]).spec
    assert (both.max_t, both.run.max_steps) == (40, 10)


def test_the_last_knob_is_not_taken_out(tmp_path: Path):
    (problem,) = problems_of(tmp_path, RUN + REST, ["space.lora_r="])
    assert "no knob; give those that vary" in problem


def test_a_knob_is_set_or_taken_out(tmp_path: Path):
    text = RUN + REST + "  distributed.timeout_s: {choice: [1]}\n"
    overrides = ["space.lora_r=", "space.distributed.timeout_s.choice=[1, 2]", "space.seed={choice: [1]}", "lora_r=2"]
    spec = load_text(tmp_path, text, overrides).spec
    assert set(spec.space) == {"distributed.timeout_s", "seed"}
    assert spec.space["distributed.timeout_s"] == Choice(choice=(1, 2))
    assert spec.run.lora_r == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed=1", "seed: from --set: both the sweep and its run have it; write run.seed=... or sweep.seed=..."),
        ("num_trial=1", "num_trial: from --set: unknown field; nearest: num_trials of the sweep or "),
        ("lora_dropot=1", "lora_dropot: from --set: unknown field; nearest: lora_dropout of the run"),
        (
            "lora_r=8",
            "lora_r: from --set: it is a knob of the space, which sets it in every trial; write space.lora_r=",
        ),
        ("max_steps=0", "run.max_steps: from --set: got 0; allowed: a whole number of at least 1"),
        ("repeats=0", "repeats: from --set: got 0; allowed: a whole number of at least 1"),
        ("run=none.yaml", "run: in none.yaml: there is no such file"),
        ("num_trials", "--set: got 'num_trials'; allowed: key=value"),
    ],
)
def test_a_wrong_override_says_so(tmp_path: Path, override: str, problem: str):
    (said,) = problems_of(tmp_path, RUN + REST, [override])
    assert said.startswith(problem)
