"""What the driver makes of a sweep: its record, and MLflow's runs of the sweep and of its trials.

In come the events of packs and what the steering side decides, out come a `SweepRecord` that is kept up to date in the
store, and nested MLflow runs. Called by the sweep's driver, from one thread; the live table reads `Books.record`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from raylora.errors import LostClusterError
from raylora.log import get_logger
from raylora.runtime.ledger import Ledger
from raylora.spec.run import RunSpec
from raylora.store.contract import Store
from raylora.store.runs import run_store
from raylora.store.sweeps import SweepRecord, TrialRecord, write_sweep
from raylora.sweep.record_writing import RecordWriting
from raylora.sweep.reporting.asked import aim_of
from raylora.sweep.reporting.report import write_report
from raylora.sweep.reporting.summary import summarise
from raylora.sweep.strays import Strays
from raylora.sweep.trial_book import TrialBook
from raylora.tracking.children import child_of
from raylora.tracking.new_run import SPEC_FILE, spec_text
from raylora.tracking.params import flat_params
from raylora.tracking.run_log import RunLog
from raylora.tracking.sweep_tracker import SweepTracker
from raylora.train.events import Event

REPORT = "report"
"""Folder of the report among the sweep's artifacts."""

MLFLOW_STATUS = {"succeeded": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "cancelled": "KILLED"}
EndStatus = Literal["succeeded", "stopped", "failed", "cancelled"]

log = get_logger(__name__)


@dataclass(frozen=True)
class _Shelf:
    """One trial's books.

    Args:
        book: How it stands.
        mlflow: Its MLflow run.
        ledger: Turns its events into MLflow's numbers.
    """

    book: TrialBook
    mlflow: RunLog
    ledger: Ledger


class Books:
    """The books of one sweep. They write the sweep's record from the beginning on.

    Args:
        store: The store of all sweeps and runs.
        record: The sweep, new or with the trials of an earlier process; those that are over stay as they are.
        tracker: Of the sweep.

    Raises:
        StoreError: The record cannot be written.
    """

    def __init__(self, store: Store, record: SweepRecord, tracker: SweepTracker) -> None:
        self._store, self._tracker = store, tracker
        self._metric = aim_of(record).metric
        self._record = record.model_copy(
            update={"status": "running", "mlflow_run_id": tracker.mlflow_run_id, "error": None}
        )
        self._shelves: dict[str, _Shelf] = {}
        for trial in record.trials:
            self._shelve(trial)
        self._left_open = set(self._shelves)
        self._writing = RecordWriting(lambda: write_sweep(self._store, self.record))
        write_sweep(store, self.record)
        self._strays = Strays(tracker, record)

    @property
    def how_to_open(self) -> str:
        """The command, or the page, that shows the sweep in MLflow."""
        return self._tracker.how_to_open

    @property
    def record(self) -> SweepRecord:
        """The sweep as it stands."""
        ids = self._tracker.trial_ids
        trials = sorted((shelf.book.record for shelf in self._shelves.values()), key=lambda trial: trial.number)
        return self._record.model_copy(update={"trials": tuple(trials)}).with_mlflow_ids(ids)

    def begin_trial(
        self, number: int, config: Mapping[str, Any], repeat: int, run_id: str, spec: RunSpec | None
    ) -> None:
        """Note that a trial has a slot: for the first time, after a pause, or again in a sweep that is resumed.

        Args:
            number: Place in the order of all trials, repeats counted, from 0.
            config: Fields of the run that were sampled, dotted, after ratios were applied; PBT changes them.
            repeat: Which repeat of the same configuration, from 0.
            run_id: Its run in the store.
            spec: Its resolved run; None where what was sampled makes none, which is told when it fails.
        """
        shelf, is_left = self._shelves.get(run_id), run_id in self._left_open
        self._left_open.discard(run_id)
        if is_left and shelf is not None and self._strays.is_another(shelf.book.record, config):
            self._strays.lose(shelf.book.record)
            shelf = None
        if shelf is None:
            trial_id, child = f"t{number:03d}", child_of(run_id, config)
            new = TrialRecord(trial_id=trial_id, number=number, config=dict(config), repeat=repeat, run_id=run_id)
            shelf = self._shelve(new.model_copy(update={"tracked_as": child}))
            told = False
            if self._strays.claim(child, trial_id):
                shelf.ledger.ask()
        else:
            told = shelf.book.record.config == dict(config)
            if is_left:
                shelf.ledger.ask()
        shelf.book.update(status="running", config=dict(config), error=None)
        shelf.mlflow.log_status("RUNNING")
        if not told:
            shelf.mlflow.log_params(flat_params(config))
            about = {"trial_id": shelf.book.record.trial_id, "run_id": run_id, "repeat": str(repeat)}
            about["config"] = json.dumps(dict(config), ensure_ascii=False)  # parameters cannot follow PBT
            if spec is not None:
                about["spec_digest"] = spec.digest
                shelf.mlflow.log_text(SPEC_FILE, spec_text(spec))
            shelf.mlflow.log_tags(_tags(about))
        self._writing.changed()

    def take(self, event: Event, pack: int | None = None) -> None:
        """Note one event of a pack; those of one trial come in order, and may come after its end was told.

        Args:
            event: What happened.
            pack: Number of the pack; None where the trial is trained alone.
        """
        if not event.run_id:
            if event.kind == "log":
                log.log(event.values["level"], "%s", event.values["text"])
            return
        shelf = self._shelves[event.run_id]
        # By its events: what the steering side was told may be ahead of them.
        if event.kind == "start" and event.step < (had := shelf.ledger.last_step):
            log.info("%s had come to step %d and goes on from step %d", shelf.book.record.trial_id, had, event.step)
        shelf.ledger.take(event)
        shelf.book.take(event)
        if event.kind == "placed":
            shelf.book.update(pack=pack)
        elif event.kind == "outcome":
            self._keep_adapter(shelf, event.run_id, event.values["adapter_uri"])
            shelf.ledger.log_ranks()
        self._writing.changed()

    def report(self, run_id: str, step: int, values: Mapping[str, Any]) -> None:
        """Note what the steering side was told of a trial.

        Args:
            run_id: The trial's run.
            step: Optimizer steps done.
            values: ``eval_loss``, ``train_loss`` and ``num_tokens``, and at its end ``adapter_uri``.
        """
        shelf = self._shelves[run_id]
        shelf.book.report(step, values)
        self._keep_adapter(shelf, run_id, values.get("adapter_uri"))
        self._writing.changed()

    def knows(self, run_id: str) -> bool:
        """Whether a trial has begun, in this process or an earlier one.

        Args:
            run_id: The trial's run.
        """
        return run_id in self._shelves

    def pause_trial(self, run_id: str) -> None:
        """Note that a trial gave its slot up and is to go on later."""
        self._shelves[run_id].book.update(status="paused")
        self._writing.changed()

    def end_trial(self, run_id: str, status: EndStatus, error: str | None = None) -> None:
        """Note how a trial ended.

        Args:
            run_id: The trial's run.
            status: `stopped` is the scheduler's doing.
            error: Why it failed.
        """
        shelf = self._shelves[run_id]
        shelf.book.update(status=status, error=error)
        if error is not None:
            shelf.mlflow.log_tags(_tags({"error": error}))
        shelf.mlflow.log_status(MLFLOW_STATUS[status])
        self._writing.changed()

    def write(self) -> None:
        """Write the record where something changed: what is kept next is not to know more of trials than it."""
        self._writing.write()

    def write_if_due(self) -> None:
        """Write the record where something changed and the last time is long enough ago."""
        self._writing.write_if_due()

    def close(
        self, status: Literal["finished", "failed", "interrupted"], error: BaseException | None = None
    ) -> SweepRecord:
        """End the books: trials that are still open are cancelled, and MLflow gets the best and the report.

        Args:
            status: How the sweep ended.
            error: Why it ended without a result.

        Returns:
            The record as written.

        Raises:
            StoreError: It could not be written.
        """
        for run_id, shelf in self._shelves.items():
            if shelf.book.record.status in ("running", "paused"):
                self.end_trial(run_id, "cancelled")
        why = None if error is None else str(error) or type(error).__name__
        ended = {"status": status, "error": why, "lost_cluster": isinstance(error, LostClusterError)}
        self._record = self._record.model_copy(update=ended)
        try:
            write_sweep(self._store, self.record)  # before MLflow, which may keep us waiting
            self._log_best(is_over=status == "finished")
            if status == "finished":
                self._log_report()
        finally:
            self._tracker.finish(status)
        self._record = write_sweep(self._store, self.record)
        return self._record

    def leave(self) -> None:
        """Write no more: another driver goes on with the sweep."""
        self._tracker.leave()

    def _shelve(self, trial: TrialRecord) -> _Shelf:
        assert trial.run_id is not None and trial.child is not None  # given when it begins
        book = TrialBook(trial, self._metric)
        mlflow = self._tracker.trial(trial.child, trial.trial_id)
        ledger = Ledger(mlflow, run_store(self._store, trial.run_id), trial.trial_id, book.seen)
        shelf = self._shelves[trial.run_id] = _Shelf(book, mlflow, ledger)
        return shelf

    def _keep_adapter(self, shelf: _Shelf, run_id: str, uri: str | None) -> None:
        """Both the pack and the steering side tell of an adapter; whoever is first has it sent to MLflow."""
        if uri is not None and shelf.book.record.adapter_uri is None:
            shelf.book.update(adapter_uri=uri)
            shelf.mlflow.log_published(run_store(self._store, run_id).uri, uri.rpartition("/")[2])

    def _log_best(self, is_over: bool) -> None:
        best = summarise(self.record).best_trial
        if best is None or best.run_id is None:
            return
        about = {"best_trial": best.trial_id, "best_run_id": best.run_id, "best_metric": str(best.metric)}
        about |= {
            "best_config": json.dumps(best.config, ensure_ascii=False),
            "best_adapter_uri": best.adapter_uri or "",
        }
        self._tracker.log_tags(_tags(about))
        if is_over:  # before, another may still become the best
            self._shelves[best.run_id].mlflow.log_tags(_tags({"best": "true"}))

    def _log_report(self) -> None:
        with TemporaryDirectory() as folder:
            try:
                write_report(self.record, Path(folder))
            except OSError as error:
                log.warning("MLflow gets no report: %s; `raylora report` writes it again", error)
            else:
                self._tracker.log_folder(Path(folder), REPORT)


def _tags(about: Mapping[str, str]) -> dict[str, str]:
    return {f"raylora.{name}": value for name, value in about.items()}
