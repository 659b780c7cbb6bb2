"""Two sweeps of the command that take the turnings others do not; each trial ends as it would alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import yaml

from raylora.spec.reading.load import load_spec
from raylora.store.sweeps import TrialRecord
from tests.cluster.alone import loss_alone, trained_alone
from tests.cluster.command import Command
from tests.cluster.conftest import ALONE_ON_ITS_RANK, SWEPT
from tests.cluster.made_sweeps import in_workplace, loaded, run_of, the_record, whole, write

__all__ = ["in_workplace"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"use_dora": False},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "loftq": {"init_lora_weights": "loftq"},
    "eva": {"init_lora_weights": "eva"},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_lr_ratio": 4},
    "vera": {"adapter": "vera", "lora_r": 32},
    "adalora": {"adapter": "adalora", "target_r": 4, "tinit": 1, "tfinal": 1},
}
"""What an axolotl grid lets vary together: the whole family."""


def test_a_grid_of_axolotl_whose_pack_finds_its_width_itself(in_workplace: Path, on_head: Command, tmp_path: Path):
    """The whole family with dropout side by side, activations recomputed, on as many slots as are fastest."""
    changes = {"gradient_checkpointing": True, "lora_dropout": 0.1, "distributed": ALONE_ON_ITS_RANK, "max_steps": 4}
    run, grid = write(tmp_path, "run.yaml", in_place(in_workplace, SWEPT | changes)), tmp_path / "axolotl.yaml"
    grid.write_text(yaml.safe_dump({"_kinds": list(KINDS.values())}))
    command = Command(tmp_path, on_head.home, on_head.env)
    ended = command.run("sweep", run, "--grid", str(grid), "--json", "--set", "report_steps=2")
    result = whole(ended)
    assert "slots; tokens/s by slots 1: " in ended.err
    assert [trial["status"] for trial in result["trials"]] == ["succeeded"] * len(KINDS)
    assert len({trial["metric"] for trial in result["trials"]}) == len(KINDS)
    trials = dict(zip(KINDS, result["trials"], strict=True))
    for name, trial in trials.items():
        spec = load_spec(tmp_path / run, [f"{field}={json.dumps(value)}" for field, value in KINDS[name].items()]).spec
        alone = trained_alone(spec, tmp_path)
        assert alone.progress.eval_loss == pytest.approx(trial["metric"], abs=1e-5), name
    used_afterwards(command, result["sweep_id"], trials)


def used_afterwards(command: Command, sweep_id: str, trials: Mapping[str, dict[str, Any]]) -> None:
    """Ask all adapters one question, merge one and combine two, by the names that the sweep gave them."""
    names = {name: f"{sweep_id}/{trial['trial_id']}" for name, trial in trials.items()}
    answered = whole(command.run("generate", *names.values(), "--prompt", "what", "--max-new-tokens", "3", "--json"))
    assert [answer["adapter"] for answer in answered["answers"]] == list(names.values())
    merged = whole(command.run("merge", names["dora"], "--out", str(command.folder / "merged"), "--json"))
    assert merged["max_logit_difference"] < 1e-4
    both = (names["lora"], names["rslora"], "--method", "cat", "--out", str(command.folder / "combined"), "--json")
    combined = whole(command.run("combine", *both))
    assert combined["r"] == 16
    told = {each["adapter"]: each["losses"] for each in combined["evaluation"]}
    for name in ("lora", "rslora"):
        assert told[names[name]][names[name]] == pytest.approx(trials[name]["metric"], abs=1e-4)


def test_repeats_of_drawn_trials(in_workplace: Path, on_head: Command, tmp_path: Path):
    """Optuna, median stopping, two repeats of each trial."""
    sweep = {
        "run": SWEPT | {"distributed": ALONE_ON_ITS_RANK},
        "num_trials": 6,
        "searcher": "optuna",
        "scheduler": "median",
        "budget": {"steps": 6},
        "report_steps": 2,
        "repeats": 2,
        "slots": 2,
        "space": {"learning_rate": {"loguniform": [1e-5, 1e-2]}},
    }
    name = write(in_workplace, "repeated.yaml", sweep)
    result = whole(on_head.run("sweep", name, "--json"))
    trials = result["trials"]
    rates = [trial["config"]["learning_rate"] for trial in trials]
    assert rates[::2] == rates[1::2] and len(set(rates)) == 6
    assert [trial["steps"] for trial in trials[::2]] == steps_by_medians(the_record(on_head).trials)
    assert all(first != second for first, second in pairs([trial["metric"] for trial in trials])), "seeds differ"
    means = {trials[2 * number]["trial_id"]: fmean(pair) for number, pair in enumerate(pairs(metrics_at_end(trials)))}
    assert result["best_mean"] == pytest.approx(min(means.values()))
    spec = loaded(in_workplace, name)
    assert loss_alone(run_of(spec, trials[0]), trials[0]["adapter_uri"], tmp_path) == pytest.approx(
        trials[0]["metric"], abs=1e-5
    )
    assert all(math.isfinite(trial.metric or math.inf) for trial in the_record(on_head).trials)


def steps_by_medians(trials: Sequence[TrialRecord]) -> list[int]:
    """Steps of each pair of repeats: one that is worse than three or more before it, at its first report, is stopped.

    Those that are not worse then are not later either, in the sweep above.
    """
    first = [next(point for point in trial.curve if point.eval_loss is not None) for trial in trials]
    means = [fmean([one.eval_loss or 0.0, other.eval_loss or 0.0]) for one, other in pairs(first)]
    stopped = [at >= 3 and mean > median(means[:at]) for at, mean in enumerate(means)]
    assert any(stopped), "median stopping had nothing to do"
    return [2 if is_stopped else 6 for is_stopped in stopped]


def metrics_at_end(trials: Sequence[dict[str, Any]]) -> list[float]:
    """Of trials that trained to their end; none of the others is the best."""
    return [trial["metric"] if trial["status"] == "succeeded" else math.inf for trial in trials]


def pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def in_place(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The run, from wherever it is started."""
    return run | {"base_model": str(folder / "base"), "datasets": [{"path": str(folder / "rows.jsonl")}]}
