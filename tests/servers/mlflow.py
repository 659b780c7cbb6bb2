"""A real MLflow server: its own process, a database and a place for artifacts."""

from __future__ import annotations

import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import Server, free_ports

LEAN = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without processes that the tests do not need."""


class MlflowServer(Server):
    """`mlflow server` with one worker process.

    Args:
        folder: For its log, and for artifacts where no other place is named.
        backend_uri: Its database.
        artifacts: Where it puts artifacts that clients send through it.
        env: Further variables, such as the credentials of the place of artifacts.
    """

    def __init__(
        self,
        folder: Path,
        backend_uri: str | None = None,
        artifacts: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        (port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", backend_uri or f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", artifacts or str(folder / "artifacts")),
        ]
        super().__init__(
            command,
            folder / "mlflow.log",
            self._is_ready,
            env=LEAN | dict(env or {}),
            stop_signal=signal.SIGKILL,  # it waits for open connections at any other
        )

    def _is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
