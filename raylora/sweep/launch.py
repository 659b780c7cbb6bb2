"""A sweep's specification becomes finished trials: packs of workers, Ray Tune over their slots, books of all of it.

The driver's side, as `runtime.launch` is for a run. Called by the command line and by ``raylora.api``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import ray

from raylora.errors import InputError, InterruptedRunError, RunFailedError
from raylora.log import get_logger
from raylora.runtime.cluster import check_places, cluster
from raylora.runtime.environment import forwarded
from raylora.runtime.launch import checking
from raylora.runtime.stopping import StopWish, stop_wish
from raylora.spec.packing import why_alone
from raylora.spec.sweep import SweepSpec
from raylora.store.before_start import before_start
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.home import default_store_uri, home
from raylora.store.lease import Lease
from raylora.store.sweeps import SweepRecord, new_sweep, read_sweep, sweep_store
from raylora.sweep.books import Books
from raylora.sweep.drive import Search, TrialOutcome, drive
from raylora.sweep.fleet import Berth, Fleet
from raylora.sweep.host import open_host
from raylora.sweep.result import sweep_result
from raylora.sweep.trials import SweepTrials
from raylora.sweep.tune_space import tune_scheduler, tune_searcher, tune_space
from raylora.sweep.watch import TrialEvent

log = get_logger(__name__)
Listener = Callable[[SweepRecord], None]
"""Told how the sweep stands, whenever that changes."""

MAX_PACKS = 64
TUNE_FOLDER = "tune"


def sweep(spec: SweepSpec, listen: Listener = lambda record: None) -> dict[str, Any]:
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


def resume_sweep(sweep_id: str, store_uri: str | None = None, listen: Listener = lambda record: None) -> dict[str, Any]:
    """Go on with a sweep: finished trials are kept, the others go on from their last saves.

    Args:
        sweep_id: Name of the sweep.
        store_uri: The store it is in; raylora's home where absent.
        listen: Told how it stands.

    Returns:
        The result; of a sweep that has finished already, the one it finished with.

    Raises:
        InputError: There is no such sweep, or another command is at work on it.
        RunFailedError: Every trial failed, or the cluster was lost.
        InterruptedRunError: SIGINT or SIGTERM; slots were saved, unless it came twice.
    """
    with before_start():
        store = open_store(store_uri or default_store_uri())
        record = read_sweep(store, sweep_id)
    if record.status == "finished" and record.result is not None:
        log.info("sweep %s finished at %s; this is its result", sweep_id, f"{record.updated:%Y-%m-%d %H:%M} UTC")
        return record.result
    spec = SweepSpec.model_validate(record.spec)
    return _Launch(spec, record, listen).run()


class _Launch:
    """One sweep on its way."""

    def __init__(self, spec: SweepSpec, record: SweepRecord | None, listen: Listener) -> None:
        self._spec, self._is_resumed, self._listen = spec, record is not None, listen
        self._record = record or new_sweep(spec.model_dump(mode="json"))
        self._trials = SweepTrials(spec, self._record.sweep_id)
        self._berths: dict[str, Berth] = {}
        self._started_at = time.time()

    def run(self) -> dict[str, Any]:
        """From the checks to the result."""
        spec = self._spec
        check = checking(spec.run)
        with cluster(spec.run), stop_wish() as stop, ExitStack() as held:
            check_places(spec.run)
            num_slots = self._num_slots()
            self._berths[self._trials.key(spec.run)] = Berth(spec.run, num_slots)
            host = open_host(num_slots, MAX_PACKS)
            held.callback(ray.kill, host)
            fleet = Fleet(host, self._hear)
            held.callback(fleet.close)
            fleet.start(self._trials.key(spec.run), self._berths[self._trials.key(spec.run)])
            store = check.result().store
            held.enter_context(self._owned(store))
            self._books = Books.open(store, self._record, spec, home() / "spool" / self._record.sweep_id)
            with self._recorded(stop):
                ray.get(host.prepare.remote(forwarded(spec.run.ray.forward_env), self._trials))
                fleet.begin(store.uri, self._berths)
                stop.patient = True
                outcomes = drive(
                    host,
                    self._search(store, num_slots),
                    stop,
                    self._note,
                    self._is_resumed,
                    lambda: fleet.tend(self._berths),
                )
                fleet.end(self._berths)
                self._settle(outcomes, stop, fleet)
        return self._books.result
