"""A real PostgreSQL server from the machine's own binaries, where it has them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.process import Server, free_ports

PASSWORD = "pw-nobody-may-print"


class PostgresServer(Server):
    """PostgreSQL with one user and a password, its data in a folder that its user owns.

    Args:
        folder: Where it keeps its data; every folder above must be open to other users.
    """

    def __init__(self, folder: Path) -> None:
        binaries = _binaries()
        user = _user()
        (port,) = free_ports(1)
        self.uri = f"postgresql://raylora:{PASSWORD}@127.0.0.1:{port}/postgres"
        data, password_file = folder / "data", folder / "password"
        password_file.write_text(PASSWORD)
        if user:
            for path in (folder, password_file):
                shutil.chown(path, user)
        subprocess.run(
            [
                *(str(binaries / "initdb"), "-D", str(data), "-U", "raylora", "-A", "scram-sha-256"),
                *(f"--pwfile={password_file}", "--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
            user=user,
            extra_groups=[] if user else None,
        )
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        super().__init__(
            command,
            folder / "postgres.log",
            lambda: subprocess.run(ready, check=False, timeout=10).returncode == 0,
            stop_signal=signal.SIGINT,  # its "fast" stop, which waits for no client
            user=user,
        )


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """One that serves, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="raylora-postgres-"))  # pytest's own folders are closed to other users
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    found = shutil.which("initdb")
    if found is None or not (Path(found).resolve().parent / "postgres").exists():
        pytest.skip("no PostgreSQL server on this machine")
    return Path(found).resolve().parent


def _user() -> str | None:
    """Whom to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody'")
