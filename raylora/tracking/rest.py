"""What MLflow did not take before a training or a sweep had ended, sent when somebody asks for it once more.

In comes the spool that was left on this machine, out go its entries; the last one says how it ended. Called by whoever
resumes what has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.store.home import resume_command
from raylora.tracking.address import tracking_uri
from raylora.tracking.children import Children
from raylora.tracking.lanes import Lanes
from raylora.tracking.tracker import FINISH_TIMEOUT_S

_log = get_logger(__name__)


def send_rest(
    spec: RunSpec, name: str, spool_dir: Path, mlflow_run_id: str, trials: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """Deliver what is left; what MLflow does not take within a minute stays, and a warning says so.

    Args:
        spec: The training, or what the trials of a sweep begin with.
        name: raylora's own name of the training or the sweep.
        spool_dir: Its folder on this machine for what MLflow does not have yet; gone once MLflow has everything.
        mlflow_run_id: MLflow's id of its run.
        trials: Of a sweep: MLflow's ids of the trials that it has, by the name that they are found by.

    Returns:
        MLflow's ids of the trials that it has now.
    """
    children = Children(mlflow_run_id, trials or {})
    resume = resume_command(name, spec.storage.uri)
    lanes = Lanes(tracking_uri(spec.tracking), mlflow_run_id, spool_dir, resume, children)
    if not lanes.close(FINISH_TIMEOUT_S):
        _log.info("MLflow has now what it had not taken of %s", name)
    return children.ids
