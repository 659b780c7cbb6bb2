"""A second driver that took a run or a sweep over while the first was silent."""

from __future__ import annotations

import time
from collections.abc import Callable

from raylora.store.contract import Store
from raylora.store.fence import key_of
from raylora.store.lease import Holder
from raylora.store.process import here

OTHER = Holder(token="other", num_beats=1, process=here()).model_dump_json().encode()


def take_over(store: Store, is_known: Callable[[], bool]) -> None:
    """Hold a lease until its first holder knows; that one may write itself in once more at the same moment.

    Args:
        store: Of the run or sweep.
        is_known: Whether the first driver has found out; it may raise what that driver raises.
    """
    deadline = time.monotonic() + 60
    while not is_known():
        assert time.monotonic() < deadline
        store.write(key_of(2), OTHER)
        time.sleep(0.02)
