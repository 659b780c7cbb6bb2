"""Spaces of sweeps, and what Tune draws from them."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Experiment
from ray.tune.search import SearchAlgorithm, Searcher, SearchGenerator

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.lease import Lease
from raylora.sweep.steering.tune_space import tune_space

SPACE: dict[str, Any] = {
    "lora_r": {"choice": [4, 8]},
    "lora_alpha": {"ratio": 2, "of": "lora_r"},
    "lora_target_modules": {"choice": [["q_proj", "v_proj"], "all-linear"]},
    "lora_dropout": {"choice": [0.0, 0.1], "when": {"lora_r": 8}},
}
RANGES: dict[str, Any] = {
    "learning_rate": {"loguniform": [1e-5, 1e-3]},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "warmup_steps": {"int": [0, 3]},
}


def made(space: dict[str, Any], **asked: Any) -> SweepSpec:
    run = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}], "val_set_size": 0.1}
    return SweepSpec.model_validate({"run": run, "space": space, "budget": {"steps": 20}} | asked)


def drawn_by(searcher: SearchAlgorithm | Searcher, sweep: SweepSpec) -> list[dict[str, Any]]:
    """What Tune draws while nothing has been reported."""
    algorithm = SearchGenerator(searcher) if isinstance(searcher, Searcher) else searcher
    space = tune_space(sweep.space)
    experiment = Experiment("drawn", Lease, config=space, num_samples=sweep.num_configurations)
    algorithm.set_search_properties(sweep.metric, sweep.mode, space, **experiment.public_spec)
    algorithm.add_configurations([experiment])
    trials = []
    while (trial := algorithm.next_trial()) is not None:
        trials.append(dict(trial.config))
    return trials
