"""A sweep's specification becomes finished trials: packs of workers, Ray Tune over their slots, books of all of it.

The driver's side, as `runtime.launch` is for a run. Called by the command line and by ``raylora.api``. What takes
seconds to import (transformers, MLflow, pictures) is imported where it is used, while the workers start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Literal

import ray

from raylora.errors import InputError, InterruptedRunError, RayloraError, RunFailedError, StoreError
from raylora.log import get_logger
from raylora.runtime.cluster.cluster import check_places, cluster, warn_without_gpus
from raylora.runtime.cluster.environment import forwarded
from raylora.runtime.launch import checking
from raylora.runtime.stopping import stop_wish
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.space import resolve
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.before_start import before_start
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.home import default_store_uri, resume_command, spool_dir
from raylora.store.lease import Lease
from raylora.store.sweeps import TUNE_FOLDER, SweepRecord, new_sweep, read_sweep, sweep_store, write_sweep
from raylora.sweep.finished import finished
from raylora.sweep.fleet import Fleet
from raylora.sweep.planning.berths import Berths
from raylora.sweep.planning.likely import first_run
from raylora.sweep.result import sweep_result
from raylora.sweep.standing import Listener, Standing, awaited, next_of_pack
from raylora.sweep.steering.host import open_host
from raylora.sweep.steering.trials import SweepTrials
from raylora.train.events import Event

if TYPE_CHECKING:
    from raylora.sweep.books import Books
    from raylora.sweep.steering.drive import TrialOutcome
    from raylora.sweep.steering.watch import TrialEvent

log = get_logger(__name__)

MAX_PACKS, MAX_LEASES = 64, 128

TELL_S = 0.25
"""Between two tellings of how runs get on; each makes the record of all trials, in the thread that steps Tune."""


def sweep(spec: SweepSpec, listen: Listener = lambda standing: None) -> dict[str, Any]:
    """Run a sweep to its end.

    Args:
        spec: As asked.
        listen: Told how it stands.

    Returns:
        The result, as ``raylora sweep --json`` prints it.

    Raises:
        InputError: The sweep cannot be as asked; nothing was trained.
        RunFailedError: Every trial failed, or the cluster was lost.
        InterruptedRunError: SIGINT or SIGTERM; slots were saved, unless it came twice.
    """
    return _Launch(spec, None, listen).run()


def resume_sweep(
    sweep_id: str, store_uri: str | None = None, listen: Listener = lambda standing: None
) -> dict[str, Any]:
    """Go on with a sweep: finished trials are kept, the others go on from their last saves.

    Args:
        sweep_id: Name of the sweep.
        store_uri: The store it is in; raylora's home where absent.
        listen: Told how it stands.

    Returns:
        The result; of a sweep that has finished already, the one it finished with. MLflow then gets what it was not
        there to take.

    Raises:
        InputError: There is no such sweep, or another command is at work on it.
        RunFailedError: Every trial failed, or the cluster was lost.
        InterruptedRunError: SIGINT or SIGTERM; slots were saved, unless it came twice.
    """
    with before_start():
        store = open_store(store_uri or default_store_uri())
        record = read_sweep(store, sweep_id)
    with closing(Lease(sweep_store(store, sweep_id), sweep_id)) as lease:
        if record.result is None:
            with before_start():
                lease.take()
                record = read_sweep(store, sweep_id)  # it may have gone on or finished a moment ago
        # It goes on where its record was found, even if that store has moved since.
        run = record.spec["run"]
        spec = SweepSpec.model_validate(record.spec | {"run": run | {"storage": run["storage"] | {"uri": store.uri}}})
        if record.result is not None:
            return finished(store, spec, record, record.result, listen)
        return _Launch(spec, record, listen, lease).run()


class _Launch:
    """One sweep on its way.

    Args:
        spec: As asked.
        record: Of a sweep that goes on.
        listen: Told how it stands.
        lease: That was taken before the record was read.
    """

    def __init__(
        self, spec: SweepSpec, record: SweepRecord | None, listen: Listener, lease: Lease | None = None
    ) -> None:
        self._spec, self._is_resumed, self._listen, self._lease = spec, record is not None, listen, lease
        self._record = awaited(record, os.getcwd()) if record else new_sweep(spec.model_dump(mode="json"))
        self._trials = SweepTrials(spec, self._record.sweep_id)
        self._berths = Berths(spec, self._trials, MAX_LEASES)
        self._doing, self._told_at = "starting Ray", 0.0
        self._books: Books | None = None

    def run(self) -> dict[str, Any]:
        """From the checks to the result."""
        run = self._spec.run
        check = checking(run)
        self._tell(self._doing)
        with ExitStack() as kept, cluster(run), stop_wish() as stop, ExitStack() as held:
            check_places(run)
            warn_without_gpus(run)
            host = open_host(self._berths.num_at_once, MAX_PACKS)
            held.callback(ray.kill, host)
            packs = [trial.pack for trial in self._record.trials if trial.pack is not None]
            fleet = Fleet(host, self._spec.report_steps, self._hear, max(packs, default=-1) + 1)
            held.callback(fleet.close)
            first = first_run(self._spec, self._record.trials)
            if first is not None:
                fleet.start(self._trials.key(first), first)
            self._tell("starting workers")
            store = check.result().store
            self._berths.plan()
            if first is not None:
                self._berths.note(first)
            from raylora.sweep.books import Books
            from raylora.sweep.steering.drive import drive
            from raylora.sweep.steering.search import search_of
            from raylora.tracking.sweep_tracker import SweepTracker

            sweep_id = self._record.sweep_id
            # Given back when no worker of this driver is left that could write.
            lease = kept.enter_context(closing(self._lease or Lease(sweep_store(store, sweep_id), sweep_id)))
            with before_start():
                lease.take()
            mlflow_run_id, trials = self._record.mlflow_run_id, self._record.mlflow_ids
            tracker = SweepTracker.begin(self._spec, sweep_id, spool_dir(sweep_id), mlflow_run_id, trials)
            books = self._books = Books(store, self._record, tracker)
            try:
                ray.get(host.prepare.remote(forwarded(run.ray.forward_env), self._trials))
                fleet.begin(store.uri, lease.fence, self._berths.by_key)
                stop.patient = True
                search = search_of(self._spec, sweep_store(store, sweep_id).uri, self._berths.num_at_once)
                is_kept = self._is_kept(store)
                tend, write = lambda: self._tend(fleet, lease), lambda: self._write(fleet, books)
                outcomes = drive(host, search, stop, self._note, is_kept, tend, write)
                was_cut = stop.asked  # a search that is over is not interrupted by what comes while the workers end
                self._tell("ending the workers")
                fleet.end()
                lease.check_now()
                self._settle(outcomes, was_cut)
            except BaseException as error:
                raise self._recorded(error, books, store, lease) from error
            self._tell("sending the report to MLflow")
            return self._result(books.close("finished"), store)

    def _is_kept(self, store: Store) -> bool:
        """Whether there is a search to go on with; one that was cut off before its first trial had a slot is not."""
        kept = sweep_store(store, self._record.sweep_id).keys(TUNE_FOLDER) if self._is_resumed else []
        return any("experiment_state" in key for key in kept)

    def _tend(self, fleet: Fleet, lease: Lease) -> None:
        lease.check()
        fleet.tend(self._berths.by_key)
        self._told().write_if_due()

    def _write(self, fleet: Fleet, books: Books) -> None:
        """Write down all that there is to know: a trial that Tune keeps as over tells nothing again."""
        fleet.hear()
        books.write()

    def _hear(self, pack: int, event: Event) -> None:
        """Take what a run told."""
        if event.kind == "phase":
            part = event.values["name"]
            log.debug("pack %d: %s took %.1f s", pack, part, event.values["seconds"])
            self._doing = next_of_pack(part, self._berths.may_be_fewer)
        if self._books is not None:  # before, workers tell only how their start went
            self._books.take(event, pack)
        if event.kind == "phase" or time.monotonic() - self._told_at >= TELL_S:
            self._tell(self._doing)

    def _tell(self, doing: str) -> None:
        """Say how the sweep stands."""
        self._doing, self._told_at = doing, time.monotonic()
        record = self._record if self._books is None else self._books.record
        self._listen(Standing(record, self._spec.num_configurations * self._spec.repeats, doing))

    def _note(self, event: TrialEvent) -> None:
        """Take what happened to a trial, that is, to all of its repeats."""
        books = self._told()
        if event.kind == "start":
            self._begin(event.sampled, event.number)
        for told in event.result.get("repeats", ()) if event.kind == "report" else ():
            books.report(told["run_id"], told["step"], told)
            if event.stopped:
                books.end_trial(told["run_id"], "succeeded" if told["finished"] else "stopped")
        for run_id in self._trials.run_ids(event.number) if event.kind == "pause" else ():
            books.pause_trial(run_id)
        if event.error is not None:
            self._begin(event.sampled, event.number, only_unknown=True)
            for run_id in self._trials.run_ids(event.number):
                books.end_trial(run_id, "failed", event.error)
        self._tell(self._doing)

    def _begin(self, sampled: Mapping[str, Any], number: int, only_unknown: bool = False) -> None:
        """Enter a trial's repeats in the books; of a draw that makes no run, too, which its lease then fails with."""
        books, config = self._told(), resolve(self._spec.space, sampled)
        try:
            specs: list[RunSpec | None] = [each.spec for each in self._trials.repeats(sampled, number)]
        except InputError as error:
            log.debug("trial %d: %s", number, error)
            specs = [None] * self._spec.repeats
        for repeat, (spec, run_id) in enumerate(zip(specs, self._trials.run_ids(number), strict=True)):
            if only_unknown and books.knows(run_id):
                continue
            if spec is not None:
                self._berths.note(spec)
            books.begin_trial(number * self._spec.repeats + repeat, config, repeat, run_id, spec)

    def _settle(self, outcomes: list[TrialOutcome], was_cut: bool) -> None:
        """Note how every trial ended.

        Args:
            outcomes: Of all trials.
            was_cut: Whether the search was stopped before its end.

        Raises:
            InterruptedRunError: Somebody asked to stop.
            RunFailedError: No trial came to anything.
        """
        if was_cut:
            raise InterruptedRunError("interrupted, with the slots that trained saved")
        for outcome in outcomes:
            # What a driver that was killed had kept of its trials may be more than it had written down.
            self._begin(outcome.sampled, outcome.number, only_unknown=True)
            repeats = outcome.result.get("repeats", ())
            for told in repeats:
                self._told().report(told["run_id"], told["step"], told)
            through = {told["run_id"] for told in repeats if told["finished"]}
            for run_id in self._trials.run_ids(outcome.number):
                is_through = outcome.status == "stopped" and run_id in through
                self._told().end_trial(run_id, "succeeded" if is_through else outcome.status, outcome.error)
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        if failed and len(failed) == len(outcomes):
            raise RunFailedError(f"all {len(failed)} trials failed, the first with: {failed[0].error}")

    def _result(self, record: SweepRecord, store: Store) -> dict[str, Any]:
        result = sweep_result(record) | {"mlflow_command": self._told().how_to_open}
        write_sweep(store, record.model_copy(update={"result": result}))
        self._tell("finished")
        return result

    def _recorded(self, error: BaseException, books: Books, store: Store, lease: Lease) -> BaseException:
        """Note in the sweep's record how it ended without a result; returns what to tell the user."""
        sweep_id = self._record.sweep_id
        if isinstance(error, KeyboardInterrupt):
            error = InterruptedRunError("ended at once, without saving the slots")
        if isinstance(error, InterruptedRunError):
            error = InterruptedRunError(f"sweep {sweep_id}: {error}; go on with: {resume_command(sweep_id, store.uri)}")
        if isinstance(error, RayloraError):
            error.about = {"sweep_id": sweep_id}
        status: Literal["failed", "interrupted"] = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
        lease.look()
        if lease.lost:  # the record and MLflow's runs are another driver's now
            books.leave()
            return error
        try:
            books.close(status, error)
        except StoreError as failure:
            log.warning("the record of sweep %s does not say so: %s", sweep_id, failure)
        self._tell(status)
        return error

    def _told(self) -> Books:
        assert self._books is not None  # events come after the beginning
        return self._books
