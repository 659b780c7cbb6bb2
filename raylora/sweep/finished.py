"""A sweep that has finished, asked for once more: its result again, and for MLflow what it had not taken.

A record with a result enters; the result leaves. Called by whoever resumes a sweep.
"""

from __future__ import annotations

from typing import Any

from raylora.log import get_logger
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.contract import Store
from raylora.store.home import spool_dir
from raylora.store.sweeps import SweepRecord, write_sweep
from raylora.sweep.result import sweep_result
from raylora.sweep.standing import Listener, Standing

log = get_logger(__name__)


def finished(
    store: Store, spec: SweepSpec, record: SweepRecord, result: dict[str, Any], listen: Listener
) -> dict[str, Any]:
    """Answer with the result of a sweep that has finished, once MLflow has what it had not taken of it.

    Args:
        store: The store that it was found in.
        spec: As recorded, in that store.
        record: The sweep.
        result: What it finished with.
        listen: Told that it has finished.

    Returns:
        The result, with what MLflow calls the trials by now.

    Raises:
        StoreError: The record cannot be written.
    """
    sweep_id, spool = record.sweep_id, spool_dir(record.sweep_id)
    log.info("sweep %s finished at %s; this is its result", sweep_id, f"{record.updated:%Y-%m-%d %H:%M} UTC")
    if record.mlflow_run_id and spool.exists():
        from raylora.tracking.rest import send_rest

        ids = send_rest(spec.run, sweep_id, spool, record.mlflow_run_id, record.mlflow_ids)
        record = record.with_mlflow_ids(ids)
        result = result | {"trials": sweep_result(record)["trials"]}
        write_sweep(store, record.model_copy(update={"result": result}))
    listen(Standing(record, len(record.trials), "finished"))
    return result
