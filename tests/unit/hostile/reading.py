"""How often a reader is tried, and what counts as its having done well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings

from raylora.errors import RayloraError

many = settings(
    max_examples=max(150, settings().max_examples),  # more where the profile searches
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def readable_or_refused(read: Callable[[], object]) -> None:
    with suppress(RayloraError):
        read()
