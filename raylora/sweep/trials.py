"""A sweep makes runs of what its searcher drew. Called by the host for each trial, through `Lease`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylora.spec.packing import pack_key, why_alone
from raylora.spec.run import RunSpec
from raylora.spec.sweep import SweepSpec
from raylora.spec.trial import trial_spec
from raylora.sweep.lease import Repeat

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
        """
        return [self._repeat(sampled, number, repeat) for repeat in range(self.sweep.repeats)]

    def _repeat(self, sampled: Mapping[str, Any], number: int, repeat: int) -> Repeat:
        spec = trial_spec(self.sweep, sampled, repeat)
        name = f"{self.sweep_id}-{number:03d}" + (f"-{repeat}" if self.sweep.repeats > 1 else "")
        budget = self.sweep.budget
        return Repeat(spec, name, self.key(spec), None if budget is None else budget.tokens)

    @staticmethod
    def key(spec: RunSpec) -> str:
        """Runs with equal keys fit into one pack; one that cannot share has a key of its own."""
        return pack_key(spec) if why_alone(spec) is None else f"{ALONE}{spec.digest}"
