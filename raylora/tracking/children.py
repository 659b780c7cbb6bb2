"""The MLflow runs below a sweep's: one for each trial, made when the first thing of it is delivered.

Nobody waits for them: a trial is named by raylora's own run id until MLflow has given it one. Called by the delivery,
in the threads of the outboxes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from raylora.log import get_logger
from raylora.tracking.new_run import RUN_TAG, find, find_or_create

_log = get_logger(__name__)


class Children:
    """MLflow's ids of a sweep's trials.

    Args:
        parent_id: MLflow's id of the sweep's run.
        known: MLflow's ids by raylora's run id, from an earlier process.
    """

    def __init__(self, parent_id: str, known: Mapping[str, str]) -> None:
        self._parent_id = parent_id
        self._lock = threading.Lock()
        self._experiment_id: str | None = None
        self._gone: set[str] = set()
        self.ids: Mapping[str, str] = dict(known)
        """MLflow's ids by raylora's run id. It is replaced and never changed, so it is read without waiting."""

    def open(self, client: MlflowClient, run_id: str, name: str, started_ms: int | None) -> str:
        """Return MLflow's id of a trial; its run is made where there is none.

        Args:
            client: MLflow's.
            run_id: raylora's own name of the trial's run.
            name: Shown in MLflow.
            started_ms: When it began, in milliseconds since 1970; now where absent.
        """
        with self._lock:
            if run_id not in self.ids:
                tag, parent_id = (RUN_TAG, run_id), self._parent_id
                run = find_or_create(
                    client, self._experiment(client), tag, name, parent_id=parent_id, started_ms=started_ms
                )
                self.ids = {**self.ids, run_id: run.info.run_id}
            return self.ids[run_id]

    def find(self, client: MlflowClient, run_id: str) -> str | None:
        """Return MLflow's id of a trial, also of one whose run an earlier process made and did not live to write down.

        Args:
            client: MLflow's.
            run_id: raylora's own name of the trial's run.
        """
        with self._lock:
            if run_id not in self.ids and (run := find(client, self._experiment(client), (RUN_TAG, run_id))):
                self.ids = {**self.ids, run_id: run.info.run_id}
            return self.ids.get(run_id)

    def is_gone(self, client: MlflowClient, run_id: str) -> bool:
        """Return whether somebody deleted a trial's run in MLflow: then the other trials must not wait for it.

        Args:
            client: Of the server that has the sweep's runs.
            run_id: raylora's name of the trial's run; it has one in MLflow already.
        """
        try:
            gone = client.get_run(self.ids[run_id]).info.lifecycle_stage == LifecycleStage.DELETED
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            gone = True
        if gone and run_id not in self._gone:
            self._gone.add(run_id)
            _log.warning("MLflow's run of trial %s was deleted: no more is sent to it", run_id)
        return gone

    def _experiment(self, client: MlflowClient) -> str:
        """MLflow's id of the experiment that the sweep's run is in; asked once, under the lock."""
        if self._experiment_id is None:
            self._experiment_id = str(client.get_run(self._parent_id).info.experiment_id)
        return self._experiment_id
