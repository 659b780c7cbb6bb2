"""Seconds from the command to the end of a sweep: raylora against Ray Tune with one PEFT trial per actor.

Both sides try the same configurations on the same rows in the same order, with all cores, from a warm cache. The other
side runs its trials one after another with all threads, and two at once with half of them each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.rows import BASE_MODEL, Material
from benchmarks.start import start_once
from benchmarks.sweep_floor import floor
from benchmarks.sweep_rows import write_rows
from benchmarks.turns import REPOSITORY
from benchmarks.workload import MAX_GRAD_NORM

LIMIT_S = 7200
MOST_TURNS = 1
"""Sweeps take minutes, and each is run once."""
RAYLORA = "raylora"
OTHERS = {"ray-tune, one at a time": 1, "ray-tune, two at once": 2}
"""Trials that run at the same time."""
SEQUENTIAL = "ray-tune, one at a time"


@dataclass(frozen=True)
class Sweep:
    """What is searched.

    Args:
        num_steps: Of each trial.
        rows_per_step: Rows of a step.
        row_tokens: Tokens of a row.
        report_steps: Steps between a trial's reports; also ASHA's grace period.
        space: Values of each knob; all combinations are tried.
        goals: How many times faster raylora is to be than the other side one at a time, and at its best.
    """

    num_steps: int
    rows_per_step: int
    row_tokens: int
    report_steps: int
    space: Mapping[str, list[Any]]
    goals: Mapping[str, float]

    @property
    def num_trials(self) -> int:
        """Combinations of the space."""
        ranks, rates = self.space.values()
        return len(ranks) * len(rates)

    @property
    def asha(self) -> dict[str, int]:
        """ASHA's settings, the same on both sides."""
        return {"grace_period": self.report_steps, "reduction_factor": 4}


RANKS = [4, 8, 16, 32]
SWEEPS = {
    "32 short trials": Sweep(
        10,
        1,
        32,
        2,
        {"lora_r": RANKS, "learning_rate": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2]},
        {"one at a time": 5.0, "at its best": 3.0},
    ),
    "16 longer trials": Sweep(
        20,
        2,
        64,
        4,
        {"lora_r": RANKS, "learning_rate": [2e-4, 5e-4, 1e-3, 3e-3]},
        {"one at a time": 1.6, "at its best": 1.2},
    ),
}
FLOOR_GOAL = 1.2


def measure_sweep(name: str, material: Material, num_turns: int) -> dict[str, Any]:
    """A sweep without early stopping, then with ASHA.

    Args:
        name: Of the sweep.
        material: What is trained on what.
        num_turns: One.
    """
    del num_turns
    return {"threads": _cores(), "floor_goal": FLOOR_GOAL, "name": name, **_measured(material, SWEEPS[name])}


def _measured(material: Material, sweep: Sweep) -> dict[str, Any]:
    run = run_fields(material, sweep)
    rows = write_rows(run, material.base, material.folder, sweep.num_steps)
    start_s = _start_up(run, material.folder)
    least = floor(material, run, _cores(), sweep.space, sweep.num_steps)
    found = {
        how: _all_sides(material, sweep, run, rows, asha)
        for how, asha in (("no early stopping", {}), ("ASHA on both sides", sweep.asha))
    }
    _check_whole(found["no early stopping"], sweep)
    return {
        "asked": asdict(sweep) | {"num_trials": sweep.num_trials},
        "floor": {
            "start_s": start_s,
            **least,
            "floor_s": {kernel: start_s + seconds for kernel, seconds in least["products_s"].items()},
        },
        "found": found,
    }


def run_fields(material: Material, sweep: Sweep) -> dict[str, Any]:
    """The run that raylora's trials start from."""
    return {
        "base_model": BASE_MODEL if material.name.startswith("SmolLM2") else str(material.base),
        "load_in_4bit": True,
        "dtype": "float32",
        "datasets": [{"path": str(material.texts(sweep.row_tokens)), "type": "text"}],
        "sequence_len": sweep.row_tokens,
        "micro_batch_size": sweep.rows_per_step,
        "max_steps": sweep.num_steps,
        "lr_scheduler": "constant",
        "max_grad_norm": MAX_GRAD_NORM,
        "distributed": {"num_workers": 1, "cpus_per_worker": _cores()},
        "storage": {"uri": str(material.folder / "store")},
        "tracking": {"uri": f"sqlite:///{material.folder}/mlflow.db"},
    }


def sweep_fields(run: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """The file of raylora's sweep."""
    ratio = {"lora_alpha": {"ratio": 2, "of": "lora_r"}}
    return {
        "run": dict(run),
        "searcher": "grid",
        "metric": "train_loss",
        "budget": {"steps": sweep.num_steps},
        "report_steps": sweep.report_steps,
        "space": {name: {"choice": values} for name, values in sweep.space.items()} | ratio,
    }


def _start_up(run: Mapping[str, Any], folder: Path) -> float:
    """From the command to the first step of one such run; the first warms caches and makes MLflow's database."""
    config = folder / "one-step.yaml"
    config.write_text(json.dumps(dict(run) | {"max_steps": 1}))  # JSON is YAML
    return [start_once(config, folder)["to_first_step_s"] for _ in range(2)][-1]


def _all_sides(
    material: Material, sweep: Sweep, run: Mapping[str, Any], rows: Path, asha: Mapping[str, int]
) -> dict[str, Any]:
    sides = {RAYLORA: _raylora(material.folder, sweep, run, asha)}
    for name, concurrency in OTHERS.items():
        sides[name] = other_side(material, sweep, rows, concurrency, asha)
    seconds = {name: side["makespan_s"] for name, side in sides.items()}
    best = min(seconds[name] for name in OTHERS)
    faster = {"one at a time": seconds[SEQUENTIAL] / seconds[RAYLORA], "at its best": best / seconds[RAYLORA]}
    return {"sides": sides, "raylora_is_faster_by": faster}


def _raylora(folder: Path, sweep: Sweep, run: Mapping[str, Any], asha: Mapping[str, int]) -> dict[str, Any]:
    config = folder / "sweep.yaml"
    config.write_text(json.dumps(sweep_fields(run, sweep)))
    words = [f"--set={name}={value}" for name, value in ({"scheduler": "asha", **asha} if asha else {}).items()]
    command = ["-c", "from raylora.cli.app import main; main()", "sweep", str(config), "--json", *words]
    seconds, output = _timed(RAYLORA, command)
    told: dict[str, Any] = json.loads(output)
    return {
        "makespan_s": seconds,
        "told_wall_s": told["wall_s"],
        "num_packs": told["num_packs"],
        "num_trials": told["num_trials"],
        "steps": sum(trial["steps"] for trial in told["trials"]),
        "best_metric": told["best_metric"],
    }


def other_side(
    material: Material, sweep: Sweep, rows: Path, concurrency: int, asha: Mapping[str, int]
) -> dict[str, Any]:
    """Run the other side once.

    Args:
        material: What is trained on what.
        sweep: What is searched.
        rows: Rows of all steps, in the order in which raylora takes them.
        concurrency: Trials at once; they share the cores.
        asha: ASHA's settings; without any no trial is stopped.
    """
    name, out = f"ray-tune-{concurrency}", material.folder / "tune-result.json"
    asked = {
        "base": str(material.base),
        "rows": str(rows),
        "rows_per_step": sweep.rows_per_step,
        "num_steps": sweep.num_steps,
        "report_steps": sweep.report_steps,
        "max_grad_norm": MAX_GRAD_NORM,
        "space": dict(sweep.space),
        "threads": max(_cores() // concurrency, 1),
        "concurrency": concurrency,
        "early_stopping": dict(asha),
        "folder": str(material.folder / "tune"),
        "out": str(out),
    }
    path = material.folder / f"{name}.json"
    path.write_text(json.dumps(asked))
    seconds, _ = _timed(name, ["-m", "benchmarks.tune_side", str(path)])
    return {"makespan_s": seconds, **json.loads(out.read_text())}


def _timed(name: str, command: list[str]) -> tuple[float, str]:
    # How many threads a process has is said to Ray; the conductor's own single one is no matter of theirs.
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    env |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S
    )
    seconds = perf_counter() - start
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds, done.stdout.decode()


def _check_whole(found: Mapping[str, Any], sweep: Sweep) -> None:
    """Without early stopping every trial of every side has all its steps.

    Raises:
        RuntimeError: One has not.
    """
    for name, side in found["sides"].items():
        if side["steps"] != sweep.num_trials * sweep.num_steps:
            raise RuntimeError(f"{name} trained {side['steps']} steps, not {sweep.num_trials} x {sweep.num_steps}")


def _cores() -> int:
    return os.cpu_count() or 1
