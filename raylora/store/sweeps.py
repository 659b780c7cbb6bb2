"""The record of a sweep: what was asked, how it stands, and how each of its trials went. One JSON object per sweep.

Keys: ``sweeps/<sweep_id>/sweep.json``. In comes a specification as JSON, out comes a `SweepRecord`. Written by the
sweep's driver; read by the report, the table of trials and whoever resumes a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict

from raylora.store.contract import Store
from raylora.store.records import Record, Records, StatusNow
from raylora.store.records import Status as SweepStatus

__all__ = [
    "TUNE_FOLDER",
    "CurvePoint",
    "SweepRecord",
    "SweepStatus",
    "TrialRecord",
    "TrialStatus",
    "has_sweep",
    "list_sweeps",
    "new_sweep",
    "read_sweep",
    "sweep_status_now",
    "sweep_store",
    "write_sweep",
]

TUNE_FOLDER = "tune"
"""Of a sweep's own store: what Ray Tune keeps there."""

MAX_CURVE_POINTS = 512
"""A longer curve is thinned before it is written: more points than a picture has columns tell nobody more."""

TrialStatus = Literal["running", "paused", "succeeded", "stopped", "failed", "cancelled"]


def _finite(value: Any) -> Any:
    # JSON has no NaN; a record is to read back as it was written.
    return None if isinstance(value, float) and not math.isfinite(value) else value


Loss = Annotated[float | None, BeforeValidator(_finite)]
"""A finite number; None where there is none, or where it was NaN or infinite."""


class CurvePoint(NamedTuple):
    """One point of a learning curve; a list of four in JSON.

    Args:
        step: Optimizer steps so far.
        tokens: Tokens trained on so far.
        train_loss: Nats per token.
        eval_loss: Nats per token, where this step was evaluated.
    """

    step: int
    tokens: int
    train_loss: Loss = None
    eval_loss: Loss = None


class TrialRecord(BaseModel):
    """How one trial of a sweep stands."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer raylora may have written more

    trial_id: str
    """Short name in the order of trials, such as `t003`."""

    number: int
    """Place in that order, from 0."""

    config: dict[str, Any]
    """Fields of the run that were sampled, dotted, after ratios were applied."""

    repeat: int = 0
    """Which repeat of the same configuration under another seed, from 0; repeats follow one another in the order."""

    status: TrialStatus = "running"
    """How it stands; `stopped` is the scheduler's doing."""

    steps: int = 0
    """Optimizer steps done."""

    tokens: int = 0
    """Tokens trained on."""

    metric: Loss = None
    """The sweep's metric, as last reported."""

    curve: tuple[CurvePoint, ...] = ()
    """Losses by step."""

    trainable_parameters: int | None = None
    """Of its adapter."""

    run_id: str | None = None
    """Its run in the store."""

    adapter_uri: str | None = None
    """Folder of its adapter, once there is one."""

    mlflow_run_id: str | None = None
    """Its MLflow run, a child of the sweep's."""

    tracked_as: str | None = None
    """Name by which that one is found in MLflow: of the run and of what it was drawn as."""

    error: str | None = None
    """Why it failed."""

    pack: int | None = None
    """Number of the pack it was trained in; None where it was trained alone."""

    @property
    def draw(self) -> int:
        """Number of the first repeat of its configuration, which all of them share.

        A searcher may draw the same values twice: these are two draws, each with its own repeats.
        """
        return self.number - self.repeat

    @property
    def child(self) -> str | None:
        """Name by which its MLflow run is found; where none was given, that of its run."""
        return self.tracked_as or self.run_id

    @property
    def is_over(self) -> bool:
        """Whether it has ended; one that is cancelled goes on when its sweep is resumed."""
        return self.status in ("succeeded", "stopped", "failed")


class SweepRecord(Record):
    """How one sweep stands."""

    sweep_id: str
    """Name of the sweep, sortable by the time it was created."""

    mlflow_run_id: str | None = None
    """Its MLflow run, the parent of its trials'."""

    trials: tuple[TrialRecord, ...] = ()
    """Its trials so far, in order."""

    @property
    def mlflow_ids(self) -> dict[str, str]:
        """MLflow's ids of the trials that it has, by the name that they are found by."""
        return {trial.child: trial.mlflow_run_id for trial in self.trials if trial.child and trial.mlflow_run_id}

    def with_mlflow_ids(self, ids: Mapping[str, str]) -> SweepRecord:
        """Return the record with what MLflow calls its trials by now.

        Args:
            ids: MLflow's ids by the name that trials are found by; a trial that is not among them keeps its own.
        """
        trials = tuple(
            trial.model_copy(update={"mlflow_run_id": ids.get(str(trial.child), trial.mlflow_run_id)})
            for trial in self.trials
        )
        return self.model_copy(update={"trials": trials})


_SWEEPS = Records(SweepRecord, "sweep", "sweeps", "sweep.json", "give --store where it lies elsewhere")


def new_sweep(spec: Mapping[str, Any]) -> SweepRecord:
    """Return the record of a new sweep, which has its name from now on; nothing is written yet.

    Args:
        spec: What was asked, as JSON.
    """
    return _SWEEPS.begin(spec=dict(spec))


def write_sweep(store: Store, record: SweepRecord) -> SweepRecord:
    """Write a sweep's record with the present time and no curve too long, and return it as written.

    Args:
        store: The store of all sweeps.
        record: How the sweep stands; one driver at a time writes it.
    """
    trials = tuple(trial.model_copy(update={"curve": thinned(trial.curve)}) for trial in record.trials)
    return _SWEEPS.write(store, record.model_copy(update={"trials": trials}))


def read_sweep(store: Store, sweep_id: str) -> SweepRecord:
    """Return a sweep's record.

    Args:
        store: The store of all sweeps.
        sweep_id: Name of the sweep.

    Raises:
        InputError: There is no such sweep.
        CorruptObjectError: Its record cannot be read.
    """
    return _SWEEPS.read(store, sweep_id)


def has_sweep(store: Store, sweep_id: str) -> bool:
    """Return whether there is a sweep of a name.

    Args:
        store: The store of all sweeps.
        sweep_id: The name.

    Raises:
        InputError: No sweep can have that name.
    """
    return _SWEEPS.has(store, sweep_id)


def list_sweeps(store: Store) -> list[SweepRecord]:
    """Return all sweeps, newest first; records that cannot be read are passed over with a warning."""
    return _SWEEPS.all(store)


def sweep_status_now(store: Store, record: SweepRecord) -> StatusNow:
    """Return how a sweep stands; one that says `running` and whose driver is gone is `lost`.

    Args:
        store: The store of all sweeps.
        record: As it was read.
    """
    return _SWEEPS.status_now(store, record)


def sweep_store(store: Store, sweep_id: str) -> Store:
    """Return the sweep's own store, for what lies beside its record.

    Args:
        store: The store of all sweeps.
        sweep_id: Name of the sweep.
    """
    return _SWEEPS.place(store, sweep_id)


def thinned(curve: tuple[CurvePoint, ...], limit: int = MAX_CURVE_POINTS) -> tuple[CurvePoint, ...]:
    """Drop every second point until few enough are left; the last stays, and so do evaluations while they can.

    Halving rather than picking at even distance: a curve that grows and is thinned again stays even.

    Args:
        curve: Points in order.
        limit: Points to keep at most, 2 or more.
    """
    while len(curve) > limit:
        all_but_last = range(len(curve) - 1)
        plain = [index for index in all_but_last if curve[index].eval_loss is None]
        evaluations_fit = len(curve) - len(plain) < limit
        dropped = set((plain if evaluations_fit else all_but_last)[1::2])
        curve = tuple(point for index, point in enumerate(curve) if index not in dropped)
    return curve
