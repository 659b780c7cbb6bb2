"""Ask again after a passing failure, less and less often, for a bounded time.

In comes an action and a judgement of its errors, out comes its result or its last error. Called by the S3 store, and by
the sweep for what Ray Tune keeps there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from raylora.log import get_logger

T = TypeVar("T")

PATIENCE_S = 120.0
"""Seconds for which storage that does not answer is asked again, unless somebody says otherwise."""

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 8.0

_log = get_logger(__name__)


def retrying(
    action: Callable[[], T],
    *,
    what: str,
    is_transient: Callable[[Exception], bool],
    patience_s: float,
) -> T:
    """Run `action` until it succeeds, fails for good, or `patience_s` has passed.

    Args:
        action: Repeatable: running it twice does what running it once does.
        what: Says what is tried, for the log.
        is_transient: Whether the same action may succeed later.
        patience_s: Seconds after which no further attempt starts; 0 tries once.

    Returns:
        What `action` returned.

    Raises:
        Exception: The last error of `action`, unchanged.
    """
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return action()
        except Exception as error:  # judged and re-raised: only the caller knows its library's errors
            if not is_transient(error) or time.monotonic() + wait_s > deadline:
                raise
            _log.warning("%s: %s: %s; trying again in %.1f s", what, type(error).__name__, error, wait_s)
        # Jitter keeps many workers from asking a recovering server at the same instant.
        time.sleep(wait_s * random.uniform(0.7, 1.0))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
