"""Cases of a script, each by itself: what one found leaves, or why it found nothing; the others go on.

A device is lent for minutes: a case that finds no memory, comes too late or fails costs no other its result.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.gpu.device import forget
from benchmarks.gpu.setting import Setting

WHY_NOT, FAILED = "why_not", "failed"
"""Keys of a case that found nothing: for want of memory or time; and otherwise."""
OUT_OF_MEMORY = "out of memory"


class NotTheSameError(Exception):
    """Two sides of a comparison do not do the same work."""


def attempt(setting: Setting, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do the work of one case, where there is time for it, and give its memory back.

    Args:
        setting: Says until when.
        name: Of the case.
        work: What it finds.

    Returns:
        What was found; or why nothing was, under `WHY_NOT` or `FAILED`.
    """
    if setting.is_late:
        return {WHY_NOT: "left out: the time was up"}
    print(name, file=sys.stderr, flush=True)
    try:
        return work()
    except Exception as error:  # the edge of a case: libraries' errors share no class; told, and the run exits with 1
        if _is_memory(error):
            return {WHY_NOT: OUT_OF_MEMORY}
        traceback.print_exc()
        return {FAILED: f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    finally:
        forget(setting.device)


def told(case: Mapping[str, Any], key: str, form: Callable[[Any], str] = str) -> str:
    """One figure of a case; nothing where it has none.

    Args:
        case: From `attempt`.
        key: Of the figure.
        form: How it looks.
    """
    return form(case[key]) if key in case else ""


def why_not(case: Mapping[str, Any]) -> str:
    """Why a case found nothing."""
    return "failed" if FAILED in case else str(case.get(WHY_NOT, ""))


def failures(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cases that failed, with their errors."""
    return [f"{name} ({case[FAILED]})" for name, case in cases.items() if FAILED in case]


def _is_memory(error: BaseException | None) -> bool:
    """Of the device, also where it is told as another error: that of a slot, say."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__
    return False
