"""Two kinds of trials on a cluster with room for both: two packs at the same time, and one budget of tokens for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.alone import trained_alone
from tests.cluster.command import LONG_S, Command, wait_until
from tests.cluster.conftest import SWEPT
from tests.cluster.made_sweeps import in_workplace, loaded, run_of, whole, write
from tests.cluster.stopped import next_workers
from tests.servers.ray import RayHead

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

NUM_TOKENS = 12_000
PLACE = {"strategy": "ddp", "num_workers": 1, "worker_timeout_s": 900}
"""One that stands still is not to be missed, however long the other takes."""
SWEEP: dict[str, Any] = {
    "run": SWEPT | {"distributed": PLACE, "lora_dropout": 0.1, "num_epochs": 100},
    "searcher": "grid",
    "budget": {"tokens": NUM_TOKENS},
    "report_steps": 10,
    "slots": 2,
    "space": {"load_in_4bit": {"choice": [True, False]}, "gradient_accumulation_steps": {"choice": [1, 2]}},
}

PAIRS = ("t000", "t002"), ("t001", "t003")
"""Trials of each pack."""


def ended(trials: tuple[str, str], said: str) -> int:
    """How many of them the sweep has told the end of."""
    return sum(f"{trial} succeeded" in said for trial in trials)


@pytest.fixture(scope="module")
def command(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> Command:
    return Command(workplace, new_home(), ray_head.env)


@pytest.fixture(scope="module")
def trials(command: Command, ray_head: RayHead) -> list[dict[str, Any]]:
    """One pack stands still from before its first step to the end of the other's trials, whichever starts faster."""
    ray_head.forget_workers()
    running = command.start("sweep", write(command.folder, "packs.yaml", SWEEP), "--json")
    running.wait_for("workers look at the base")
    pid = next_workers(ray_head, but=set(), number=1)["0"]
    os.kill(pid, signal.SIGSTOP)
    with suppress(TimeoutError):
        wait_until(lambda: any(ended(pair, running.said) == 2 for pair in PAIRS), LONG_S)
    said = running.said
    os.kill(pid, signal.SIGCONT)
    result = whole(running.end())
    assert sorted(ended(pair, said) for pair in PAIRS) == [0, 2], said
    assert ray_head.census() == {"actors": [], "groups": []}
    assert result["num_packs"] == 2
    trials: list[dict[str, Any]] = result["trials"]
    return trials


def test_each_kind_has_a_pack_of_its_own_and_they_do_not_wait_for_each_other(trials: list[dict[str, Any]]):
    assert [trial["status"] for trial in trials] == ["succeeded"] * 4
    assert [(trial["config"]["load_in_4bit"], trial["pack"]) for trial in trials] == [(True, 0), (False, 1)] * 2


def test_trials_take_the_same_tokens_in_as_many_steps_as_that_takes(trials: list[dict[str, Any]]):
    small, large = trials[:2], trials[2:]
    assert [trial["config"]["gradient_accumulation_steps"] for trial in trials] == [1, 1, 2, 2]
    for trial in trials:
        assert NUM_TOKENS <= trial["tokens"] < NUM_TOKENS * (1 + 2 / trial["steps"])
    for some in (small, large):  # the rows, and so the steps, are those of the other pack
        assert len({(trial["steps"], trial["tokens"]) for trial in some}) == 1
    assert small[0]["steps"] > 1.8 * large[0]["steps"]


def test_a_trial_of_each_pack_ends_where_it_ends_alone(
    trials: list[dict[str, Any]], in_workplace: Path, tmp_path: Path
):
    sweep = loaded(in_workplace, "packs.yaml")
    for trial in (trials[0], trials[3]):
        spec = run_of(sweep, trial)
        alone = trained_alone(spec, tmp_path, NUM_TOKENS)
        assert alone.progress.eval_loss == pytest.approx(trial["metric"], abs=1e-5), trial["trial_id"]
        assert (alone.progress.step, alone.progress.num_tokens) == (trial["steps"], trial["tokens"])
