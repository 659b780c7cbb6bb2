"""Where words go: results to stdout, everything else to stderr; with ``--json`` one object on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from rich.console import Console

from raylora.errors import RayloraError, SpecError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; logs stay on stderr.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a field, dotted for nested ones; may be repeated."),
]


BAR_VARIABLES = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""What libraries read, when they are imported, to keep their progress bars off."""


def silence_bars() -> None:
    """Keep the progress bars of libraries off, unless their user said otherwise."""
    for name in BAR_VARIABLES:
        os.environ.setdefault(name, "1")


@contextmanager
def results_alone() -> Iterator[None]:
    """Where JSON was asked for, keep standard output for it: Ray and others print there as they please."""
    if "--json" not in sys.argv:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def say(text: str, console: Console = out) -> None:
    """Print a line as it is, however long: people copy the paths in it, and only a terminal may wrap it.

    Args:
        text: The line; markup in it is printed, not obeyed.
        console: Where it goes: results on standard output, or what is said beside them.
    """
    console.print(text, markup=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object, on one line."""
    stdout = sys.__stdout__ or sys.stdout
    stdout.write(json.dumps(value, default=str) + "\n")
    stdout.flush()


def fail(error: RayloraError) -> int:
    """Tell an error; returns its exit code."""
    err.print(f"[bold red]error[/]: {_escaped(str(error))}", soft_wrap=True)
    return tell_program(error, error.exit_code)


def tell_program(error: Exception, exit_code: int) -> int:
    """Print an error as JSON where JSON was asked for; returns its exit code.

    Args:
        error: What ended the command.
        exit_code: Of the command.
    """
    if "--json" in sys.argv:
        print_json({"error": _described(error), "exit_code": exit_code})
    return exit_code


def _described(error: Exception) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, RayloraError):
        described |= error.about
    if isinstance(error, SpecError):
        described["problems"] = [
            {"field": problem.field, "message": problem.message, "line": problem.line} for problem in error.problems
        ]
    return described


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
