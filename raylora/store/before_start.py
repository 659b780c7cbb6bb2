"""What storage refuses before anything has started is the user's to mend: exit code 2, not a failed run.

Called by the preflight, the launcher and the commands that only look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raylora.errors import InputError, StoreError


@contextmanager
def before_start() -> Iterator[None]:
    """Tell a store's refusal as wrong input: it is the place that was asked for, and not a run, that failed.

    Raises:
        InputError: In place of any `StoreError` raised inside.
    """
    try:
        yield
    except StoreError as error:
        raise InputError(str(error)) from error
