"""A desk, and whoever steers it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raylora.runtime.pack.desk import Desk
from tests.unit.runtime.steering import Steering


@pytest.fixture
def steering() -> Iterator[Steering]:
    steering = Steering(Desk())
    yield steering
    steering.desk.free([f"lease{trial}-{repeat}" for trial in range(9) for repeat in range(3)])
    steering.desk.close()  # no pack waits any longer
    steering.pool.shutdown(wait=True, cancel_futures=True)
