"""A chat template that somebody wrote is rendered in bounded time, whatever it says.

In comes the text of a template, or what renders one; an error leaves where it would take too long. Called by whoever
loads a template or renders one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2

from raylora.errors import DataError

RENDER_S = 10.0
"""Of the processor's time, for all that is rendered of one conversation. Templates take thousandths of a second."""

COMPILED = "<template>"
"""What Jinja calls the code that it makes of a template's text."""

ENDS_OF_OPERANDS = {")", "]", "}"}


@contextmanager
def in_time() -> Iterator[None]:
    """Render a chat template inside of this.

    It looks at the clock at each step of the template, and at each call of Python that a step makes. A step that makes
    none takes as long as its values are large; what makes large values of small ones at once are powers.

    Raises:
        TimeoutError: It took longer than `RENDER_S`.
    """
    ends, ends_s = time.monotonic() + RENDER_S, time.thread_time() + RENDER_S

    def look(frame: FrameType, event: str, arg: Any) -> Any:
        # The first clock is the cheaper one; the second stands still while this process is stopped, or waits for cores.
        if time.monotonic() > ends and time.thread_time() > ends_s:
            raise TimeoutError(f"it takes longer than {RENDER_S:g} s")
        return look if frame.f_code.co_filename == COMPILED else None

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def check_no_powers(template: str) -> None:
    """Refuse a template that raises to a power: one step of that kind can take years, and cannot be stopped.

    Args:
        template: Jinja; one that cannot be read is left to whoever renders it.

    Raises:
        DataError: It has ``**`` between two values.
    """
    last = ("", "")
    try:
        for line, kind, text in jinja2.Environment().lex(template):
            if text == "**" and kind == "operator" and _ends_operand(*last):
                raise DataError(
                    f"chat_template: line {line} of it raises to a power (**), which may take for ever; write the "
                    "number, or set another chat_template"
                )
            if kind != "whitespace":
                last = kind, text
    except jinja2.TemplateSyntaxError:
        return


def _ends_operand(kind: str, text: str) -> bool:
    """Whether a value ends here; before the ``**`` of a call's arguments none does."""
    return text in ENDS_OF_OPERANDS if kind == "operator" else kind in ("name", "integer", "float", "string")
