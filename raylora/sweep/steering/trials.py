"""A sweep makes runs of what its searcher drew. Called by the host for each trial, through `Lease`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylora.spec.packing import pack_key, why_alone
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.sweep.steering.lease import Repeat

ALONE = "alone "
"""Begins the key of a run that shares its pack with nobody."""


@dataclass(frozen=True)
class SweepTrials:
    """The trials of one sweep.

    Args:
        sweep: As asked.
        sweep_id: Its name in the store; its runs' names begin with it.
    """

    sweep: SweepSpec
    sweep_id: str

    def repeats(self, sampled: Mapping[str, Any], number: int) -> Sequence[Repeat]:
        """The runs of one trial, one for each seed.

        Args:
            sampled: What was drawn.
            number: Of the trial, from 0.

        Raises:
            InputError: What was drawn makes no run.
        """
        return [self._repeat(sampled, repeat, run_id) for repeat, run_id in enumerate(self.run_ids(number))]

    def run_ids(self, number: int) -> list[str]:
        """Names of the runs of one trial, whether or not what was drawn makes runs.

        Args:
            number: Of the trial, from 0.
        """
        name, repeats = f"{self.sweep_id}-{number:03d}", self.sweep.repeats
        return [f"{name}-{repeat}" for repeat in range(repeats)] if repeats > 1 else [name]

    def _repeat(self, sampled: Mapping[str, Any], repeat: int, run_id: str) -> Repeat:
        spec = trial_spec(self.sweep, sampled, repeat)
        budget = self.sweep.budget
        return Repeat(spec, run_id, self.key(spec), None if budget is None else budget.tokens)

    @staticmethod
    def key(spec: RunSpec) -> str:
        """Runs with equal keys fit into one pack; one that cannot share has a key of its own."""
        return pack_key(spec) if why_alone(spec) is None else f"{ALONE}{spec.digest}"
