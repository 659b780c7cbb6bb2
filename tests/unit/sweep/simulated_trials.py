"""The runs that a searcher's draws make, for packs that train nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylora.spec.run import RunSpec
from raylora.sweep.steering.lease import Repeat


@dataclass(frozen=True)
class SimulatedTrials:
    """Runs of a space of learning rate, rank and dropout.

    Args:
        max_steps: Of every run.
        num_repeats: Seeds of each configuration.
        key_field: The field that decides which packs fit.
        more_steps: So many more steps has each seed than the one before.
    """

    max_steps: int
    num_repeats: int = 1
    key_field: str | None = None
    more_steps: int = 0

    def repeats(self, sampled: Mapping[str, Any], number: int) -> Sequence[Repeat]:
        specs = [
            RunSpec.model_validate(
                {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}]}
                | {"seed": seed, "max_steps": self.max_steps + self.more_steps * seed}
                | dict(sampled)
            )
            for seed in range(self.num_repeats)
        ]
        return [
            Repeat(spec, f"sweep-{number}-{spec.seed}", str(getattr(spec, self.key_field)) if self.key_field else "all")
            for spec in specs
        ]
