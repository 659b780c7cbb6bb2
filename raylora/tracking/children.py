"""The MLflow runs below a sweep's: one for each trial, made when the first thing of it is delivered.

Nobody waits for them: a trial has a name of raylora's own until MLflow has given its run an id. That is the name of its
run in the store and of what was drawn for it: a sweep whose driver was killed may draw another configuration for the
same run, and MLflow must not mix the two. Called by the delivery, in the threads of the outboxes.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from raylora.log import get_logger
from raylora.tracking.new_run import find, find_or_create

CHILD_TAG = "raylora.child"
"""Tag by which a trial's MLflow run is found again; its value is what `child_of` returns."""

RUNS_PER_REQUEST = 1000

_log = get_logger(__name__)


def child_of(run_id: str, config: Mapping[str, Any]) -> str:
    """Return the name by which a trial's MLflow run is found.

    Args:
        run_id: raylora's own name of the trial's run.
        config: Fields of the run as they were drawn, before any was changed in training.
    """
    drawn = json.dumps(dict(config), sort_keys=True).encode()
    return f"{run_id}@{hashlib.sha256(drawn).hexdigest()[:16]}"


def run_of(child: str) -> str:
    """Return raylora's own name of a trial's run from the name by which MLflow's is found."""
    return child.partition("@")[0]


class Children:
    """MLflow's ids of a sweep's trials.

    Args:
        parent_id: MLflow's id of the sweep's run.
        known: MLflow's ids by the name that trials are found by, from an earlier process.
    """

    def __init__(self, parent_id: str, known: Mapping[str, str]) -> None:
        self._parent_id = parent_id
        self._lock = threading.Lock()
        self._experiment_id: str | None = None
        self._gone: set[str] = set()
        self.ids: Mapping[str, str] = dict(known)
        """By the name that trials are found by. It is replaced and never changed, so it is read without waiting."""

    def open(self, client: MlflowClient, child: str, name: str, started_ms: int | None) -> str:
        """Return MLflow's id of a trial; its run is made where there is none.

        Args:
            client: MLflow's.
            child: Name that it is found by.
            name: Shown in MLflow.
            started_ms: When it began, in milliseconds since 1970; now where absent.
        """
        with self._lock:
            if child not in self.ids:
                tag, parent_id = (CHILD_TAG, child), self._parent_id
                run = find_or_create(
                    client, self._experiment(client), tag, name, parent_id=parent_id, started_ms=started_ms
                )
                self.ids = {**self.ids, child: run.info.run_id}
            return self.ids[child]

    def find(self, client: MlflowClient, child: str) -> str | None:
        """Return MLflow's id of a trial, also of one whose run an earlier process made and did not live to write down.

        Args:
            client: MLflow's.
            child: Name that it is found by.
        """
        with self._lock:
            if child not in self.ids and (run := find(client, self._experiment(client), (CHILD_TAG, child))):
                self.ids = {**self.ids, child: run.info.run_id}
            return self.ids.get(child)

    def look(self, client: MlflowClient) -> Mapping[str, str]:
        """Return `ids` with all runs that there are, also those that an earlier process did not live to write down.

        Args:
            client: MLflow's.
        """
        below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._parent_id}'"
        with self._lock:
            where, runs, token = [self._experiment(client)], list[Run](), None
            while True:
                page = client.search_runs(where, below, max_results=RUNS_PER_REQUEST, page_token=token)
                runs += page
                token = page.token
                if not token:
                    break
            tagged = {run.data.tags[CHILD_TAG]: run.info.run_id for run in runs if CHILD_TAG in run.data.tags}
            self.ids = {**tagged, **self.ids}
            return self.ids

    def is_gone(self, client: MlflowClient, child: str) -> bool:
        """Return whether somebody deleted a trial's run in MLflow: then the other trials must not wait for it.

        Args:
            client: Of the server that has the sweep's runs.
            child: Name that it is found by; it has a run in MLflow already.
        """
        try:
            gone = client.get_run(self.ids[child]).info.lifecycle_stage == LifecycleStage.DELETED
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            gone = True
        if gone and child not in self._gone:
            self._gone.add(child)
            _log.warning("MLflow's run of trial %s was deleted: no more is sent to it", run_of(child))
        return gone

    def _experiment(self, client: MlflowClient) -> str:
        """MLflow's id of the experiment that the sweep's run is in; asked once, under the lock."""
        if self._experiment_id is None:
            self._experiment_id = str(client.get_run(self._parent_id).info.experiment_id)
        return self._experiment_id
