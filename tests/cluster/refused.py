"""What a command says that failed or was refused, and that it left nothing."""

from __future__ import annotations

from tests.cluster.command import Command, Ended

ONE_WORKER = ("--set", "distributed.num_workers=1")
"""What is refused needs no second one, which would start to import what trains."""

SOON_S = 240.0
"""Bounds a hang; such runs end in seconds where nothing else goes on."""


def said_in_one_line(ended: Ended) -> str:
    """The error, which stands once on standard error, in one line and without a traceback."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {ended.error}"]
    assert "Traceback" not in ended.err
    return ended.error


def refused(command: Command, ended: Ended) -> str:
    """The message of a refusal that left nothing."""
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert ended.left_behind == ()
    # Who is refused while the store is tried in another thread may leave an empty folder.
    files = (path.relative_to(command.home) for path in command.home.rglob("*") if path.is_file())
    assert {file.parts[0] for file in files} <= {"cache"}, "no run, no MLflow run"
    return ended.error
