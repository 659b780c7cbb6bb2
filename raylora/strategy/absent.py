"""Import a library without another one that it would take along where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Let what is imported within, by any thread, find no module of a name; one that is loaded already stays.

    Args:
        name: Of the module.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # None bars an import, which the stub leaves out
    try:
        yield
    finally:
        del sys.modules[name]
