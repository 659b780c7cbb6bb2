"""Import a library without torch's compiler, for which it asks.

bitsandbytes would compile its way for odd widths on a CPU, for ten seconds in each process that meets one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "TORCHDYNAMO_DISABLE"
"""Of torch: while it is set, `torch.compile` returns what it is given."""


@contextmanager
def uncompiled() -> Iterator[None]:
    """Leave functions that are imported within as they are written: the compiler takes a second to import."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
