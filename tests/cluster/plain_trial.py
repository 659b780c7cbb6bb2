"""A simulated trial that has an actor of Ray Tune's own. Its actors import this file; it is light."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from tests.unit.sweep.simulated_pack import loss, quality


class Simulated(tune.Trainable):
    """A trial whose losses come from the formula of simulated packs."""

    def setup(self, config: dict[str, Any], sweep: SweepSpec, line: Any) -> None:
        self.sweep, self.line = sweep, line
        self.begin(config)

    def begin(self, config: dict[str, Any]) -> None:
        self.number, self.steps, self.progress = int(self.trial_name), 0, 0.0
        self.spec = trial_spec(self.sweep, config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        ray.get(self.line.report.remote(self.number))
        self.steps += 1
        self.progress += quality(self.spec)
        told = {"number": self.number, "steps": self.steps, "eval_loss": loss(self.progress)}
        return told | {"done": self.steps == self.spec.max_steps}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.steps, self.progress]))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps, self.progress = json.loads(Path(checkpoint, "state.json").read_text())
