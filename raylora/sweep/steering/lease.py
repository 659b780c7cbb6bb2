"""A trial as Ray Tune sees it: a Trainable that trains nothing itself, but leases slots of packs from the desk.

In comes a sampled configuration, out go the slots' reports. A trial is a configuration; its repeats under other seeds
are slots of their own, and Tune is told their mean: searchers and schedulers of every kind judge configurations, and
one that is stopped, paused or cloned is so with all its repeats. Made by the host; imports no torch.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Checkpoint, Trainable
from ray.tune.result import DONE
from typing_extensions import override

from raylora.errors import InputError, RunFailedError
from raylora.runtime.cluster.desk_messages import BEFORE_ANY_STEP, Report
from raylora.runtime.pack.desk import Desk
from raylora.runtime.pack.desk_state import Claim
from raylora.spec.run import RunSpec
from raylora.sweep.steering.signed_files import check_written

SLOTS = "slots.json"
METRICS = ("eval_", "train_")
"""What the names of the numbers begin with that a trial may be judged by."""


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

        Raises:
            InputError: What was drawn makes no run.
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
        heard: Of a trial of an earlier process, the step of each run's last report that Tune knows: what comes up to
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
        heard: Mapping[str, int] | None = None,
    ) -> None:
        self._desk, self._trials, self._number, self._name, self._heard = desk, trials, number, name, heard
        self._leases: dict[int, str] = {}
        super().__init__(config, storage)

    @override
    def setup(self, config: dict[str, Any]) -> None:
        self._sampled = config
        self._repeats: Sequence[Repeat] = ()
        self._slots: list[dict[str, Any]] = []
        self._told: dict[int, dict[str, Any]] = {}

    @override
    def step(self) -> dict[str, Any]:
        if not self._leases:
            # Not in setup: only now is it known that nothing will be loaded first; and a draw that makes no run is then
            # a trial that fails, and no process that cannot start.
            self._lease()
        return self._result(self._desk.go([self._leases[index] for index in self._going]))

    @override
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        names = list(self._leases.values())
        for index, uri, report in zip(
            self._leases, self._desk.save(names), self._desk.last_reports(names), strict=False
        ):
            run_id = self._repeats[index].run_id
            told_step = max(self._told_step(index), self._told.get(index, {}).get("step", BEFORE_ANY_STEP))
            kept = {"uri": uri, "report": report and asdict(report), "told_step": told_step}
            self._slots[index] = {"run_id": run_id, **kept}
        Path(checkpoint_dir, SLOTS).write_text(json.dumps(self._slots), encoding="utf-8")

    @override
    def save(self, checkpoint_dir: str | None = None) -> Any:
        saved = super().save(checkpoint_dir)
        check_written()
        return saved

    @override
    def restore(self, checkpoint_path: Any) -> None:
        # Ray copies a checkpoint to a folder named after the object, and who has read it removes that: of two trials
        # that go on from one at the same time, the other's may be gone. A new object has a folder of its own.
        saved = checkpoint_path.checkpoint
        checkpoint_path = copy.copy(checkpoint_path)
        checkpoint_path.checkpoint = Checkpoint(saved.path, saved.filesystem)
        super().restore(checkpoint_path)

    @override
    def load_checkpoint(self, checkpoint: Any) -> None:
        self.cleanup()
        self._slots = json.loads(Path(checkpoint, SLOTS).read_text(encoding="utf-8"))

    @override
    def cleanup(self) -> None:
        self._desk.free(list(self._leases.values()))
        self._leases = {}

    @property
    def _going(self) -> list[int]:
        """Places of the repeats that are not through; one that is has no slot any more, and its last values count."""
        return [index for index in range(len(self._repeats)) if not self._told.get(index, {}).get("finished")]

    def _lease(self) -> None:
        try:
            self._repeats = self._trials.repeats(self._sampled, self._number)
        except InputError as error:
            raise RunFailedError(f"trial {self._number}: {' '.join(str(error).split())}") from error
        self._slots = self._slots or [{"run_id": each.run_id, "uri": None, "report": None} for each in self._repeats]
        kept = [self._kept(index) for index in range(len(self._repeats))]
        self._told = {
            index: self._values(index, report)
            for index, report in enumerate(kept)
            if report is not None and report.kind == "finished" and not self._is_untold(index, report)
        }
        self._leases = {index: f"{self._name}-{index}" for index in self._going}
        self._desk.lease([self._claim(index, lease, kept[index]) for index, lease in self._leases.items()])

    def _kept(self, index: int) -> Report | None:
        """The report that was saved with a repeat; PBT hands out another trial's, whose end is not its own."""
        report = self._slots[index]["report"] if self._is_own(index) else None
        return Report(**report | {"lease": f"{self._name}-{index}"}) if report else None

    def _is_own(self, index: int) -> bool:
        return bool(self._slots[index]["run_id"] == self._repeats[index].run_id)

    def _heard_step(self, index: int) -> int:
        return (self._heard or {}).get(self._repeats[index].run_id, BEFORE_ANY_STEP)

    def _told_step(self, index: int) -> int:
        """Step up to which Tune knows all reports: beyond the save's where that is an earlier one, the last given up.

        After an earlier process only what its Tune wrote down counts, which may be less than was told.
        """
        if not self._is_own(index):
            return BEFORE_ANY_STEP
        if self._heard is not None:
            return self._heard_step(index)
        return int(self._slots[index].get("told_step", BEFORE_ANY_STEP))

    def _is_untold(self, index: int, report: Report) -> bool:
        """Whether an earlier process had it and told nobody."""
        return self._heard is not None and report.step > self._heard_step(index)

    def _claim(self, index: int, lease: str, kept: Report | None) -> Claim:
        repeat = self._repeats[index]
        return Claim(
            lease=lease,
            trial=self._number,
            spec=repeat.spec,
            run_id=repeat.run_id,
            key=repeat.key,
            start_from=self._slots[index]["uri"],
            max_tokens=repeat.max_tokens,
            told_step=self._told_step(index),
            untold=kept if kept is not None and self._is_untold(index, kept) else None,
        )

    def _result(self, reports: Sequence[Report]) -> dict[str, Any]:
        places = {lease: index for index, lease in self._leases.items()}
        for report in reports:
            if report.kind == "failed":
                seed = self._repeats[places[report.lease]].spec.seed
                which = f" under seed {seed}" if len(self._repeats) > 1 else ""
                raise RunFailedError(f"trial {self._number}{which}: {report.values['error']}")
        if not reports:
            return {DONE: True}  # freed while it waited: Tune has stopped the trial and hears this no more
        for report in reports:
            self._told[places[report.lease]] = self._values(places[report.lease], report)
        told = [self._told[index] for index in range(len(self._repeats))]
        is_over = all(values["finished"] for values in told)
        return {
            **_means(told),
            "steps": max(values["step"] for values in told),
            "tokens": round(statistics.fmean(values["num_tokens"] for values in told)),
            "repeats": told,
            "finished": is_over,
            DONE: is_over,
        }

    def _values(self, index: int, report: Report) -> dict[str, Any]:
        """What a report tells Tune of one repeat."""
        about = {"run_id": self._repeats[index].run_id, "step": report.step, "finished": report.kind == "finished"}
        return dict(report.values) | about


def _means(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the repeats, and their spread where there is more than one."""
    means: dict[str, float] = {}
    for name in [name for name in told[0] if name.startswith(METRICS)]:
        values = [float(values[name]) for values in told if values.get(name) is not None]
        if len(values) == len(told):
            means[name] = statistics.fmean(values)
            if len(values) > 1:
                means[f"{name}_std"] = statistics.stdev(values)
    return means
