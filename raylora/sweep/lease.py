"""A trial as Ray Tune sees it: a Trainable that trains nothing itself, but leases slots of packs from the desk.

In comes a sampled configuration, out go the slots' reports. A trial is a configuration; its repeats under other seeds
are slots of their own, and Tune is told their mean: searchers and schedulers of every kind judge configurations, and
one that is stopped, paused or cloned is so with all its repeats. Made by the host; imports no torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Trainable
from ray.tune.result import DONE
from typing_extensions import override

from raylora.errors import RunFailedError
from raylora.runtime.desk import Desk
from raylora.runtime.desk_messages import Report
from raylora.runtime.desk_state import BEFORE_ANY_STEP, Claim
from raylora.spec.run import RunSpec

SLOTS = "slots.json"
LOSSES = ("eval_loss", "train_loss")


@dataclass(frozen=True)
class Repeat:
    """One training of a trial's configuration.

    Args:
        spec: What is trained.
        run_id: Name in the store of what it leaves behind; the same when the sweep is resumed.
        key: Packs with this key can hold it.
        max_tokens: Tokens after which it has finished, whatever its steps.
    """

    spec: RunSpec
    run_id: str
    key: str
    max_tokens: int | None = None


class Trials(Protocol):
    """How a sweep makes runs of what a searcher drew; it is pickled."""

    def repeats(self, sampled: Mapping[str, Any], number: int) -> Sequence[Repeat]:
        """The trainings of one trial.

        Args:
            sampled: What was drawn.
            number: Of the trial, from 0.
        """


class Lease(Trainable):
    """One trial on its slots.

    Args:
        config: What was drawn, with what Tune itself adds.
        storage: Where Tune keeps the trial, in Tune's own words.
        desk: Where slots are leased.
        trials: Makes runs of configurations.
        number: Of the trial.
        name: No other Lease has it: a trial that is paused and goes on is a new one.
        told: Of a trial of an earlier process, the step of each run's last report that Tune knows: what comes up to
            there is not told again, and what was reported after it is.
    """

    def __init__(
        self,
        config: dict[str, Any],
        storage: Any,
        desk: Desk,
        trials: Trials,
        number: int,
        name: str,
        told: Mapping[str, int] | None = None,
    ) -> None:
        self._desk, self._trials, self._number, self._name, self._told = desk, trials, number, name, told
        self._leases: list[str] = []
        super().__init__(config, storage)

    @override
    def setup(self, config: dict[str, Any]) -> None:
        self._repeats = self._trials.repeats(config, self._number)
        self._slots: list[dict[str, Any]] = [
            {"run_id": each.run_id, "uri": None, "report": None} for each in self._repeats
        ]

    @override
    def step(self) -> dict[str, Any]:
        if not self._leases:
            # Not in setup: only now is it known that nothing will be loaded first.
            claims = [
                self._claim(f"{self._name}-{index}", each, slot)
                for index, (each, slot) in enumerate(zip(self._repeats, self._slots, strict=True))
            ]
            self._leases = [claim.lease for claim in claims]
            self._desk.lease(claims)
        return self._result(self._desk.go(self._leases))

    @override
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        slots = self._slots
        if self._leases:
            uris, reports = self._desk.save(self._leases), self._desk.last_reports(self._leases)
            slots = [
                {"run_id": each.run_id, "uri": uri, "report": report and asdict(report)}
                for each, uri, report in zip(self._repeats, uris, reports, strict=True)
            ]
        Path(checkpoint_dir, SLOTS).write_text(json.dumps(slots), encoding="utf-8")

    @override
    def load_checkpoint(self, checkpoint: Any) -> None:
        self.cleanup()
        self._slots = json.loads(Path(checkpoint, SLOTS).read_text(encoding="utf-8"))

    @override
    def cleanup(self) -> None:
        self._desk.free(self._leases)
        self._leases = []

    def _claim(self, lease: str, repeat: Repeat, slot: Mapping[str, Any]) -> Claim:
        told_step, untold = BEFORE_ANY_STEP, None
        if self._told is not None and slot["run_id"] == repeat.run_id:  # not another trial's save, as PBT hands out
            told_step = self._told.get(repeat.run_id, BEFORE_ANY_STEP)
            if slot["report"] is not None and slot["report"]["step"] > told_step:
                untold = Report(**slot["report"] | {"lease": lease})
        return Claim(
            lease=lease,
            trial=self._number,
            spec=repeat.spec,
            run_id=repeat.run_id,
            key=repeat.key,
            start_from=slot["uri"],
            max_tokens=repeat.max_tokens,
            told_step=told_step,
            untold=untold,
        )

    def _result(self, reports: Sequence[Report]) -> dict[str, Any]:
        for report in reports:
            if report.kind == "failed":
                which = f" under seed {self._spec_of(report).seed}" if len(self._repeats) > 1 else ""
                raise RunFailedError(f"trial {self._number}{which}: {report.values['error']}")
        if not reports:
            return {DONE: True}  # freed while it waited: Tune has stopped the trial and hears this no more
        told = [dict(report.values) | {"run_id": self._run_id_of(report), "step": report.step} for report in reports]
        return {
            **_means(told),
            "steps": max(report.step for report in reports),
            "tokens": round(statistics.fmean(values["num_tokens"] for values in told)),
            "repeats": told,
            "finished": all(report.kind == "finished" for report in reports),
            DONE: any(report.kind == "finished" for report in reports),
        }

    def _spec_of(self, report: Report) -> RunSpec:
        return self._repeats[self._leases.index(report.lease)].spec

    def _run_id_of(self, report: Report) -> str:
        return self._repeats[self._leases.index(report.lease)].run_id


def _means(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the repeats, and their spread where there is more than one."""
    means: dict[str, float] = {}
    for name in LOSSES:
        values = [float(values[name]) for values in told if values.get(name) is not None]
        if len(values) == len(told):
            means[name] = statistics.fmean(values)
            if len(values) > 1:
                means[f"{name}_std"] = statistics.stdev(values)
    return means
