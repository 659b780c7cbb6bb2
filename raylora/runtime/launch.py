"""A spec becomes a finished run: the driver's side, from checks to result.

Ray and the workers start while this process checks what the run will use; the workers wait in the mailbox
for its word before they read anything. Called by the command line and by ``raylora.api``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raylora.errors import InputError, InterruptedRunError, LostClusterError, RayloraError, RunFailedError, StoreError
from raylora.log import get_logger
from raylora.runtime.cluster.cluster import check_places, cluster, warn_without_gpus
from raylora.runtime.cluster.environment import forwarded
from raylora.runtime.cluster.failures import lost_contact
from raylora.runtime.cluster.mailbox import Job, Mailbox, open_mailbox
from raylora.runtime.group import Group
from raylora.runtime.stopping import StopWish, stop_wish
from raylora.spec.reading.elsewhere import elsewhere
from raylora.spec.run import RunSpec
from raylora.store.before_start import before_start
from raylora.store.blob import Store, open_store
from raylora.store.home import chat_command, default_store_uri, resume_command, spool_dir
from raylora.store.lease import Lease
from raylora.store.runs import RunRecord, RunStatus, new_run, read_run, run_store, update_run, write_run
from raylora.train.events import Event

if TYPE_CHECKING:
    from raylora.runtime.ledger import Ledger
    from raylora.runtime.preflight import Preflight
    from raylora.tracking.tracker import Tracker

log = get_logger(__name__)
Listener = Callable[[Event], None]
POLL_S = 0.5


def train(spec: RunSpec, listen: Listener = lambda event: None) -> dict[str, Any]:
    """Run a spec to its end.

    Args:
        spec: The run.
        listen: Told of every event, in order.

    Returns:
        The result, as ``raylora train --json`` prints it.

    Raises:
        InputError: The run cannot be as asked; nothing was trained.
        RunFailedError: Training did not reach its end.
        InterruptedRunError: SIGINT or SIGTERM; a checkpoint was saved, unless it came twice.
    """
    return _launch(spec, None, None, listen)


def resume(
    run_id: str,
    store_uri: str | None = None,
    listen: Listener = lambda event: None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Go on with a run from its last whole checkpoint, in the same MLflow run.

    Args:
        run_id: Name of the run.
        store_uri: The store it is in; raylora's home where absent.
        listen: Told of every event, in order.
        overrides: `key=value` words that move it to other workers or another cluster, where it stays.

    Returns:
        The result; of a run that has finished already, the one it finished with. MLflow then gets what it was not
        there to take.

    Raises:
        InputError: There is no such run, another command is at work on it, or it cannot go on there.
        RunFailedError: Training did not reach its end.
        InterruptedRunError: SIGINT or SIGTERM; a checkpoint was saved, unless it came twice.
    """
    with before_start():
        store = open_store(store_uri or default_store_uri())
        record = read_run(store, run_id)
    with closing(Lease(run_store(store, run_id), run_id)) as lease:
        if record.status != "finished":
            with before_start():
                lease.take()
                record = read_run(store, run_id)  # it may have finished a moment ago
        # It goes on where its record was found, even if that store has moved since.
        spec = elsewhere({**record.spec, "storage": {**record.spec["storage"], "uri": store.uri}}, overrides)
        if record.status == "finished" and record.result is not None:
            log.info("run %s finished at %s; this is its result", run_id, f"{record.updated:%Y-%m-%d %H:%M} UTC")
            _send_rest(spec, record)
            return record.result
        return _launch(spec, _moved(record, spec) if overrides else record, lease, listen)


def _moved(record: RunRecord, spec: RunSpec) -> RunRecord:
    """The record of a run that goes on elsewhere, for whoever goes on next; the store is where the record lies."""
    asked = spec.model_dump(mode="json") | {"storage": record.spec["storage"]}
    return record.model_copy(update={"spec": asked, "spec_digest": spec.digest})


def _send_rest(spec: RunSpec, record: RunRecord) -> None:
    """Let MLflow have what it had not taken of a finished run."""
    spool = spool_dir(record.run_id)
    if record.mlflow_run_id and spool.exists():
        from raylora.tracking.rest import send_rest

        send_rest(spec, record.run_id, spool, record.mlflow_run_id)


def _launch(spec: RunSpec, record: RunRecord | None, lease: Lease | None, listen: Listener) -> dict[str, Any]:
    started_at = time.time()
    check = checking(spec)
    listen(_doing("starting Ray; checking storage, the base and the rows"))
    with ExitStack() as held:
        with cluster(spec), stop_wish() as stop, _workers(spec) as (group, mailbox):
            listen(_doing("starting workers"))
            checked = check.result()
            store = checked.store
            record = record or new_run(spec)
            tracker = _tracker(spec, record)  # refused here, a run leaves no record
            lease = held.enter_context(closing(lease or Lease(run_store(store, record.run_id), record.run_id)))
            try:
                result = _run(spec, record, lease, checked, tracker, group, mailbox, stop, listen)
            except BaseException as error:
                raise _recorded(error, store, record.run_id, lease) from error
        lease.check_now()  # the workers' end took its time, and the record may be another driver's since
        result["wall_s"] = time.time() - started_at
        update_run(store, record.run_id, status="finished", result=result)
    return result


def _doing(what: str) -> Event:
    return Event("doing", 0, {"what": what})


def checking(spec: RunSpec) -> Future[Preflight]:
    """Check while Ray starts, in a thread that an interrupted launch does not wait for."""
    future: Future[Preflight] = Future()

    def check() -> None:
        try:
            # Imported here: transformers and MLflow take seconds.
            from raylora.runtime import ledger
            from raylora.runtime.preflight import preflight

            del ledger
            found = preflight(spec)
            for source in (*found.prepared.report.train, *found.prepared.report.validation):
                log.log(logging.WARNING if source.num_dropped_empty else logging.INFO, "%s", source)
            future.set_result(found)
        except BaseException as error:  # raised again by result(), in the launcher's thread
            future.set_exception(error)

    threading.Thread(target=check, name="preflight", daemon=True).start()
    return future


@contextmanager
def _workers(spec: RunSpec) -> Iterator[tuple[Group, ActorHandle[Mailbox]]]:
    check_places(spec)
    warn_without_gpus(spec)
    mailbox = open_mailbox(forwarded(spec.ray.forward_env))
    with TemporaryDirectory(prefix="raylora-", ignore_cleanup_errors=True) as scratch:
        group = Group(spec, mailbox, Path(scratch))
        try:
            yield group, mailbox
        finally:
            group.close()
            ray.kill(mailbox)


def _tracker(spec: RunSpec, record: RunRecord) -> Tracker:
    from raylora.tracking.tracker import Tracker

    return Tracker.start(spec, record.run_id, spool_dir(record.run_id), record.mlflow_run_id)


def _run(
    spec: RunSpec,
    record: RunRecord,
    lease: Lease,
    checked: Preflight,
    tracker: Tracker,
    group: Group,
    mailbox: ActorHandle[Mailbox],
    stop: StopWish,
    listen: Listener,
) -> dict[str, Any]:
    """Give the workers their job and write down what they report."""
    from raylora.runtime.ledger import Ledger

    store, run_id = checked.store, record.run_id
    title = f"{checked.base.name}, {spec.adapter_title}"
    ledger = Ledger(tracker, run_store(store, run_id), title)
    if record.mlflow_run_id:
        ledger.ask()
    status: Literal["finished", "failed", "interrupted"] = "failed"
    try:
        begun = {"status": "running", "mlflow_run_id": tracker.mlflow_run_id, "error": None, "folder": os.getcwd()}
        with before_start():
            lease.take()
            write_run(store, record.model_copy(update=begun))
        ray.get(mailbox.post_job.remote(Job(spec, run_id, store.uri, lease.fence)))
        _listen(group, mailbox, ledger, lease, stop, listen)
        ledger.close()
        if ledger.stopped:
            raise InterruptedRunError("interrupted, with a checkpoint at {checkpoint_uri}".format(**ledger.result()))
        status = "finished"
    except (KeyboardInterrupt, InterruptedRunError):
        status = "interrupted"
        raise
    except RayError as error:
        raise lost_contact(error) from error
    finally:
        lease.look()
        if lease.lost:  # MLflow's run is another driver's now
            tracker.leave()
        else:
            tracker.finish(status)
    told = ledger.result()
    return {
        "run_id": run_id,
        "mlflow_run_id": tracker.mlflow_run_id,
        "mlflow_command": tracker.how_to_open,
        "chat_command": _chat_command(spec, run_id, store.uri, told["adapter_uri"]),
        "resume_command": resume_command(run_id, store.uri),
        "status": "finished",
        "sample_prompts": list(spec.sample_prompts),
        **told,
    }


def _chat_command(spec: RunSpec, run_id: str, store_uri: str, published: str) -> str | None:
    """What somebody types to talk to what a run has left; ``None`` where `raylora chat` refuses it."""
    if spec.task_type != "causal_lm":
        return None
    return f"raylora chat --base {published}" if spec.trains_base else chat_command(run_id, store_uri)


def _recorded(error: BaseException, store: Store, run_id: str, lease: Lease) -> BaseException:
    """Note in the run's record how it ended without a result; returns what to tell the user."""
    if isinstance(error, KeyboardInterrupt):
        error = InterruptedRunError("ended at once, without a checkpoint of this moment")
    if isinstance(error, InterruptedRunError):
        error = InterruptedRunError(f"run {run_id}: {error}; go on with: {resume_command(run_id, store.uri)}")
    if isinstance(error, RayloraError):
        error.about = {"run_id": run_id}
    status: RunStatus = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
    if lease.lost:  # the record is another driver's now
        return error
    try:
        lost_cluster = isinstance(error, LostClusterError)
        update_run(store, run_id, status=status, error=str(error) or type(error).__name__, lost_cluster=lost_cluster)
    except (StoreError, InputError) as failure:  # InputError: not even its beginning could be written
        log.warning("the record of run %s does not say so: %s", run_id, failure)
    return error


def _listen(
    group: Group, mailbox: ActorHandle[Mailbox], ledger: Ledger, lease: Lease, stop: StopWish, listen: Listener
) -> None:
    """Pass events on until the workers are done, and a wish to stop to them."""
    num_seen, told = 0, False
    while True:
        running = group.running
        lease.check()
        if stop.asked and not told:
            told = True
            log.warning("interrupted: saving a checkpoint after this step; interrupt again to give up")
            mailbox.ask_stop.remote()
        events: list[Event] = ray.get(mailbox.after.remote(num_seen, POLL_S if running else 0.0))
        for event in events:
            if event.kind == "start":
                stop.patient = True  # before, no worker could answer: they may still wait for nodes of the cluster
            ledger.take(event)
            listen(event)
        num_seen += len(events)
        if not running and not events:
            break
    lease.check_now()  # workers of a driver that was taken over fail with it
    group.check()
    if ledger.outcome is None:
        raise RunFailedError("the workers ended without a result; look at Ray's logs in /tmp/ray/session_latest/logs")
