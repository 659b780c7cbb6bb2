"""Logging. Text to stderr only: stdout belongs to results (``--json``)."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

ROOT = "raylora"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of one module.

    Args:
        name: The module's ``__name__``; it already starts with ``raylora``.
    """
    return logging.getLogger(name)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at the moment: a live display takes its place while it moves."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def configure(level: str = "INFO") -> None:
    """Send raylora's log lines to stderr once, however often this is called.

    Args:
        level: Name of a standard logging level.
    """
    logger = logging.getLogger(ROOT)
    logger.setLevel(level)
    if not logger.handlers:
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        # On CPUs with bfloat16 units it warns of a missing kernel that raylora has no use for.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
