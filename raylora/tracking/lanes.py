"""The two ways to MLflow of a training or a sweep, and the folder on disk that both keep their entries in.

In come entries, out they go in order, values beside files. Called by the trackers; one pair serves any number of runs.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from raylora.log import get_logger
from raylora.tracking.address import redacted
from raylora.tracking.children import Children
from raylora.tracking.delivery import Delivery
from raylora.tracking.outbox import Outbox
from raylora.tracking.spool import Entry

_log = get_logger(__name__)

Answer = TypeVar("Answer")

SILENT_S = 60.0
"""A server that did not answer is left alone for so long: each trial of a sweep has a question, and each would wait."""


class Lanes:
    """Files have a lane of their own: an artifact store that fails must not hold up the metrics.

    Args:
        uri: Tracking URI.
        mlflow_run_id: MLflow's id of the run.
        spool_dir: Folder on this machine for what MLflow does not have yet.
        resume: What somebody types to have the rest sent, such as ``raylora resume NAME``.
        children: The runs below it, where there are any.
        gather_s: How long entries wait for company, in seconds; the outbox's own time where absent.
    """

    def __init__(
        self,
        uri: str,
        mlflow_run_id: str,
        spool_dir: Path,
        resume: str,
        children: Children | None = None,
        gather_s: float | None = None,
    ) -> None:
        self.uri, self.mlflow_run_id, self.spool_dir, self.children = uri, mlflow_run_id, spool_dir, children
        self._resume = resume
        self._silent_until = 0.0  # on the monotonic clock
        deliver = [Delivery(uri, mlflow_run_id, children) for _ in range(2)]
        self._values = Outbox(spool_dir / "values", deliver[0], "metrics", self._shown, gather_s)
        self._files = Outbox(spool_dir / "files", deliver[1], "artifacts", self._shown, gather_s)

    def put_value(self, entry: Entry) -> None:
        """Keep a small entry and deliver it soon."""
        self._values.put(entry)

    def put_files(self, entry: Entry) -> None:
        """Keep an entry that stands for files and deliver it when there is time."""
        self._files.put(entry)

    def pending_values(self) -> list[Entry]:
        """Small entries that MLflow does not have yet, also those of an earlier process."""
        return self._values.pending()

    def ask(self, question: Callable[[], Answer], otherwise: Answer, what: str) -> Answer:
        """Return MLflow's answer; where it gives none it is asked nothing for a while. What is told goes on being sent.

        Args:
            question: Asks MLflow.
            otherwise: Stands for the answer where there is none.
            what: Is not known then, to be logged.
        """
        if time.monotonic() < self._silent_until:
            return otherwise
        try:
            return question()
        # Of mlflow, requests, sqlalchemy or a database's driver, which share no class; none is to stop a training.
        except Exception as error:
            self._silent_until = time.monotonic() + SILENT_S
            _log.warning("%s: %s", what, self._shown(error))
            return otherwise

    def close(self, timeout_s: float) -> dict[str, int]:
        """Deliver what is left.

        Args:
            timeout_s: Longest wait for MLflow in seconds.

        Returns:
            Number of entries that MLflow did not take, by kind; empty where it has everything.
        """
        deadline, boxes = time.monotonic() + timeout_s, (self._values, self._files)
        kept = Counter({box.what: box.close(max(deadline - time.monotonic(), 0)) for box in boxes})
        lost = Counter({box.what: box.num_lost for box in boxes})
        if any(kept.values()):
            _log.warning(
                "MLflow did not take %s; they are kept in %s, and `%s` sends them",
                *(_counted(kept), self.spool_dir, self._resume),
            )
        else:
            shutil.rmtree(self.spool_dir, ignore_errors=True)
        if any(lost.values()):
            _log.error("%s are lost: MLflow did not take them, and %s had no room", _counted(lost), self.spool_dir)
        return dict(kept + lost)

    def _shown(self, error: Exception) -> str:
        """An error as it may be logged: without a password."""
        return redacted(f"{type(error).__name__}: {error}", self.uri)


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} entries of {what}" for what, number in numbers.items() if number)
