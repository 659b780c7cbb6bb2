"""One search from its first trial to its last: Ray Tune's own controller, stepped here, over leases instead of actors.

In come a host with packs to lease from, and a search; out come outcomes in trial order. Everything Tune knows is kept
in a folder of the store after trials' ends, so that a killed driver's search goes on with finished trials kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.tune import CheckpointConfig, ResumeConfig
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.search import SearchAlgorithm, Searcher, SearchGenerator

from raylora.errors import InputError, RayloraError
from raylora.log import get_logger
from raylora.runtime.cluster.failures import gist, lost_contact
from raylora.runtime.stopping import StopWish
from raylora.store.signature import KEY_NAME, is_signing
from raylora.sweep.steering.host import Host
from raylora.sweep.steering.lease import Lease
from raylora.sweep.steering.scheduler_state import Statuses, note, recall, statuses
from raylora.sweep.steering.seats import Seats
from raylora.sweep.steering.signed_files import check_written, tunes_files, unwritten
from raylora.sweep.steering.watch import Listener, Watch, failure_of

log = get_logger(__name__)

PAUSE_PATIENCE_S = 60.0
"""For packs to save every slot after somebody asked to stop."""

REST_PATIENCE_S = PAUSE_PATIENCE_S / 2
"""Of this, for what Tune was told before: a slot whose pack does not answer is not to cost the others their saves."""

KEEP_S = 15.0
"""What Tune knows is kept so often while no trial ends, for a driver that is killed."""

KEEP_SHARE = 0.1
"""After a trial's end it is kept at once, or as soon as keeping takes no more than this part of the driver's time: not
before 40 s since the last time where that took 4 s."""

TrialStatus = Literal["succeeded", "stopped", "failed", "cancelled"]


@dataclass(frozen=True)
class Search:
    """What Tune is asked.

    Args:
        name: Of the folder that keeps what Tune knows.
        folder: Path or URI of the folder it lies in; Tune's URIs are pyarrow's.
        space: Tune's domains by knob.
        num_trials: Configurations drawn; for a grid, times all of it.
        metric: What trials are judged by.
        mode: Whether the least or the greatest is best.
        searcher: Tune's, limited to as many trials at once as it should have.
        scheduler: Tune's.
        num_at_once: Trials that have slots at the same time.
        save_reports: Reports between saves of each trial, for a driver that is killed; 0 for none.
    """

    name: str
    folder: str
    space: Mapping[str, Any]
    num_trials: int
    metric: str
    mode: Literal["min", "max"]
    searcher: SearchAlgorithm | Searcher
    scheduler: TrialScheduler
    num_at_once: int
    save_reports: int = 0


@dataclass(frozen=True)
class TrialOutcome:
    """How one trial ended.

    Args:
        number: Of the trial.
        sampled: What was drawn; after PBT, what it had last.
        status: ``succeeded`` (trained to its end), ``stopped`` (by the scheduler), ``failed`` or ``cancelled``.
        result: Its last report: means, ``steps``, ``tokens`` and ``repeats``; empty where there was none.
        error: Why it failed.
    """

    number: int
    sampled: Mapping[str, Any]
    status: TrialStatus
    result: Mapping[str, Any]
    error: str | None


def drive(
    host: ActorHandle[Host],
    search: Search,
    stop: StopWish,
    listen: Listener = lambda event: None,
    resume: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
    write_record: Callable[[], None] = lambda: None,
) -> list[TrialOutcome]:
    """Run a search to its end, or until somebody asks to stop.

    Args:
        host: Prepared; its packs may open later.
        search: What Tune is asked.
        stop: Looked at before each of Tune's steps; running trials are saved first.
        listen: Told of every trial's start, report and end, in order.
        resume: Whether to go on with the search of this name: unfinished trials from their last save.
        meanwhile: Called between Tune's steps, twice a second or oftener; what it raises ends the search.
        write_record: Called before what Tune knows is kept: whoever was told of trials should not know less.

    Raises:
        CorruptObjectError: What was kept of it is not signed with the key of the environment; none of it was unpickled.
        InputError: There is nothing of that name to go on with.
        RunFailedError: The host is lost; what was kept of the search can be resumed.
        UnusableStoreError: Tune could not keep a trial or the search; likewise.
    """
    unwritten()  # by a search before, in this process
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it tells a failed trial's traceback; we tell why
    watch = Watch(listen)
    seats = Seats(host, search.num_at_once, watch.number_of)
    controller = _controller(search, watch, seats, resume)
    watch.serve(controller.get_trials)
    seats.serve(controller)

    def keep(stood: Statuses) -> float:
        began = time.monotonic()
        # Raises where Tune thinks that trials failed because the host, and all with it, is gone.
        ray.get(host.waiting.remote())
        watch.check()
        write_record()
        note(controller, stood)
        controller.checkpoint(force=True, wait=True)
        check_written()
        return time.monotonic() - began

    try:
        if isinstance(search.scheduler, PopulationBasedTraining):  # it waits for a save where the controller is stepped
            ray.get(host.keep_step.remote())
        num_ended, kept_at, took_s = 0, -math.inf, 0.0
        while not controller.is_finished() and not stop.asked:
            meanwhile()
            controller.step()
            watch.tell_pauses()
            wait_s = took_s / KEEP_SHARE if (ended := watch.num_ended) > num_ended else KEEP_S
            late_s = time.monotonic() - kept_at - wait_s
            if late_s > 0 and _forgets_nothing(controller, late_s):
                took_s = keep(statuses(controller))
                num_ended, kept_at = ended, time.monotonic()
        keep(_paused(controller, seats, host) if stop.asked else statuses(controller))
    except RayError as error:
        raise lost_contact(error) from error
    finally:
        controller.end_experiment_callbacks()
    numbered = {watch.number_of(trial.trial_id): trial for trial in controller.get_trials()}
    return [_outcome(number, trial) for number, trial in sorted(numbered.items())]


def _forgets_nothing(controller: TuneController, late_s: float) -> bool:
    """Whether Tune keeps all that it has decided: it forgets that about a trial which is being saved.

    Args:
        controller: Between two of its steps.
        late_s: Seconds for which this was put off. Packs that wait for their nodes save no slot for long, and other
            trials are not to be done again for that: then only what is not simply to go on is waited for.
    """
    saving = [trial.trial_id for trial in controller.get_live_trials() if trial.is_saving]
    decided = controller._cached_trial_decisions
    return all(late_s > KEEP_S and decided.get(trial_id) == TrialScheduler.CONTINUE for trial_id in saving)


def _controller(search: Search, watch: Watch, seats: Seats, resume: bool) -> TuneController:
    """What `tune.run` makes, without its loggers and its progress report, and with our seats."""
    folder, files = tunes_files(search.folder)
    experiment = Experiment(
        search.name,
        Lease,
        config=dict(search.space),
        num_samples=search.num_trials,
        storage_path=folder,
        storage_filesystem=files,
        checkpoint_config=CheckpointConfig(checkpoint_frequency=search.save_reports),
    )
    searcher = SearchGenerator(search.searcher) if isinstance(search.searcher, Searcher) else search.searcher
    public = experiment.public_spec
    searcher.set_search_properties(search.metric, search.mode, dict(search.space), **public)
    search.scheduler.set_search_properties(search.metric, search.mode, **public)
    controller = TuneController(
        search_alg=searcher,
        scheduler=search.scheduler,
        callbacks=[watch],
        metric=search.metric,
        storage=experiment.storage,
        trial_checkpoint_config=experiment.checkpoint_config,
        resource_manager_factory=lambda: seats,
        checkpoint_period=cast("Any", math.inf),  # drive() looks first whether the trials' failures are their own
    )
    if resume:
        _go_on(controller, search)
    else:
        searcher.add_configurations([experiment])
        controller.update_max_pending_trials()
    controller.setup_experiments([experiment], searcher.total_samples)
    return controller


def _go_on(controller: TuneController, search: Search) -> None:
    """Have a new controller take up what was kept."""
    if not is_signing():
        log.warning(
            "what Ray Tune kept in %s/%s is not checked, and reading it can run code of whoever may write there; of a "
            "sweep that begins with a key in %s it is signed, and checked",
            search.folder,
            search.name,
            KEY_NAME,
        )
    try:
        controller.resume(ResumeConfig())  # asked for when it is made, Tune would start anew where this fails
    except RayloraError:
        raise
    except Exception as error:  # what is half written, or of another Ray, fails with anything
        raise _unreadable(search, gist(error)) from error
    if not recall(controller):
        raise _unreadable(search, "its scheduler's state is not there")


def _unreadable(search: Search, reason: str) -> InputError:
    return InputError(
        f"sweep {search.name}: what is kept of it in {search.folder} cannot be read ({reason}); try again "
        f"if the storage did not answer, set {KEY_NAME} as it was if it was begun with one, start it anew otherwise"
    )


def _paused(controller: TuneController, seats: Seats, host: ActorHandle[Host]) -> Statuses:
    """Save the trials that run, so that they go on from here when the search is resumed.

    Returns:
        How trials stood before, when Tune had taken in all that it was told.
    """
    seats.close()
    ray.get(host.halt.remote())
    began = time.monotonic()
    while not (controller.is_finished() or _is_at_rest(controller, host)):
        if time.monotonic() > began + REST_PATIENCE_S:
            break
        controller.step()
    stood = statuses(controller)
    running = [trial for trial in controller.get_trials() if trial.status == Trial.RUNNING]
    for trial in running:
        controller.pause_trial(trial)
    while any(trial.status == Trial.RUNNING for trial in running):
        if time.monotonic() > began + PAUSE_PATIENCE_S:
            log.warning("a trial was not saved within %.0f s; resumed, it goes on from before", PAUSE_PATIENCE_S)
            break
        controller._actor_manager.next(timeout=0.1)
    return stood


def _is_at_rest(controller: TuneController, host: ActorHandle[Host]) -> bool:
    """Whether there is nothing that Tune was told and has not decided upon."""
    is_saving = any(trial.is_saving for trial in controller.get_live_trials())
    return not is_saving and bool(ray.get(host.settled.remote()))


def _outcome(number: int, trial: Trial) -> TrialOutcome:
    result = dict(trial.last_result or {})
    status: TrialStatus = "cancelled"
    if trial.status == Trial.ERROR:
        status = "failed"
    elif trial.status == Trial.TERMINATED:
        status = "succeeded" if result.get("finished") else "stopped"
    failure = failure_of(trial) if status == "failed" else None
    return TrialOutcome(number, dict(trial.config), status, result, None if failure is None else gist(failure))
