"""What is seen while a run goes on: a live line on a terminal, plain lines otherwise; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from raylora.cli.output import err, say
from raylora.train.start_parts import next_part

if TYPE_CHECKING:
    from raylora.train.events import Event


class Display(Protocol):
    """Shows events."""

    def show(self, event: Event) -> None:
        """Take one event."""


@contextmanager
def progress_display() -> Iterator[Display]:
    """The display that fits stderr."""
    if not err.is_terminal:
        yield PlainDisplay()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        yield LiveDisplay(bars)


class LiveDisplay:
    """One line that moves: step, loss, tokens/s, time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None, numbers="workers and checks")

    def show(self, event: Event) -> None:
        """Move the line, or print what stays above it."""
        values = event.values
        match event.kind:
            case "doing" | "phase":
                self._bars.update(self._task, numbers=_doing(event))
            case "start":
                self._bars.reset(self._task, total=values["num_steps"], completed=event.step)
                self._bars.update(self._task, description="training", numbers="validating and sampling first")
            case "step":
                numbers = f"loss {values['train_loss']:.3f} · {values['tokens_per_s']:,.0f} tokens/s"
                self._bars.update(self._task, completed=event.step, numbers=numbers)
            case _:
                if text := _line(event):
                    say(text, self._bars.console)


class PlainDisplay:
    """A line an event, for logs and pipes."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._first_step, self._first_time = 0, 0.0

    def show(self, event: Event) -> None:
        """Print the event."""
        values = event.values
        if event.kind == "start":  # again, if the workers were restarted
            self._num_steps, self._first_time = values["num_steps"], 0.0
        if event.kind == "step":
            text = (
                f"step {event.step}/{self._num_steps} loss {values['train_loss']:.4f} "
                f"lr {values['learning_rate']:.2e} {values['tokens_per_s']:,.0f} tokens/s{self._time_left(event.step)}"
            )
        else:
            text = _line(event)
        for line in (text, _doing(event) if event.kind in ("doing", "phase") else ""):
            if line:
                say(line, err)

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if not self._first_time:
            self._first_step, self._first_time = step, now
            return ""
        seconds = (now - self._first_time) / (step - self._first_step) * (self._num_steps - step)
        return f" ETA {seconds:.0f} s"


def _doing(event: Event) -> str:
    """What goes on from an event on, before the first step; empty where the event says nothing of it."""
    return str(event.values["what"]) if event.kind == "doing" else next_part(event.values["name"])


def _line(event: Event) -> str:
    values = event.values
    match event.kind:
        case "phase":
            return f"{values['name']}: {values['seconds']:.1f} s"
        case "placed":
            shares = ", ".join(f"{held / 1e6:.1f} MB" for held in values["base_bytes_per_rank"])
            return (
                f"{values['strategy']}: base per rank {shares}; {values['trainable_parameters']:,} trainable parameters"
            )
        case "start":
            return f"{values['num_steps']} steps to do, {event.step} done"
        case "eval":
            return f"validation loss {values['eval_loss']:.4f} after step {event.step}"
        case "checkpoint":
            return f"checkpoint {values['uri']}"
    return ""
