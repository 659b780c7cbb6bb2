"""What is seen while a sweep goes on: a table that is drawn again on a terminal, plain lines otherwise; on stderr.

Standings of the sweep enter. Lines of the log go above the table, which stays whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raylora.cli.output import err, say
from raylora.cli.trials import TrialsTable
from raylora.sweep.reporting.summary import Summary, summarise
from raylora.sweep.reporting.words import config_text, number, span

if TYPE_CHECKING:
    from raylora.store.sweeps import TrialRecord
    from raylora.sweep.standing import Standing

MAX_ROWS = 16
OTHER_LINES = 8
"""Of the screen, for what stands around the rows."""

DRAWINGS_PER_S = 2
BAR_WIDTH = 24


@contextmanager
def sweep_display() -> Iterator[Callable[[Standing], None]]:
    """What fits stderr."""
    if not err.is_terminal:
        yield SweepLines().show
        return
    picture = SweepPicture()
    with Live(picture, console=err, refresh_per_second=DRAWINGS_PER_S, transient=True):
        yield picture.show


class SweepPicture:
    """How many trials are over, the best of them, what goes on, and the table; drawn from the newest standing."""

    def __init__(self) -> None:
        self._standing: Standing | None = None
        self._began_at = time.monotonic()

    def show(self, standing: Standing) -> None:
        """Take the newest standing; it is seen at the next drawing."""
        self._standing = standing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        standing, seconds = self._standing, time.monotonic() - self._began_at
        if standing is None:
            yield Text(f"starting ({span(seconds)})")
            return
        summary = summarise(standing.record)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(standing.num_trials, standing.num_over, width=BAR_WIDTH),
            f"{standing.num_over}/{standing.num_trials} trials over{_best(summary)}",
        )
        yield Text(f"sweep {standing.record.sweep_id}", style="bold")
        yield line
        yield Text(f"{standing.doing} ({span(seconds)})", style="dim", no_wrap=True, overflow="ellipsis")
        if standing.record.trials:
            yield TrialsTable(standing.record, max_rows=max(1, min(MAX_ROWS, console.height - OTHER_LINES)))


class SweepLines:
    """A line for each part of the start, and for each trial that begins or ends: for logs and pipes."""

    def __init__(self) -> None:
        self._said: dict[str, str] | None = None
        self._doing = ""

    def show(self, standing: Standing) -> None:
        """Print what changed."""
        if self._said is None:
            self._said = {trial.trial_id: trial.status for trial in standing.record.trials}
            kept = f": {standing.num_over}/{standing.num_trials} trials over" if self._said else ""
            say(f"sweep {standing.record.sweep_id}{kept}", err)
        if standing.doing != self._doing:
            self._doing = standing.doing
            say(standing.doing, err)
        for trial in standing.record.trials:
            before = self._said.get(trial.trial_id)
            if trial.status != before:
                self._said[trial.trial_id] = trial.status
                say(_line(trial, before, standing), err)


def _line(trial: TrialRecord, before: str | None, standing: Standing) -> str:
    if trial.status == "running":
        verb = "begins" if before is None else f"goes on after step {trial.steps}"
        return f"{trial.trial_id} {verb}: {config_text(trial.config)}"
    reached = "" if trial.metric is None else f", {number(trial.metric)}"
    told = f"{trial.trial_id} {trial.status} after step {trial.steps}{reached}"
    if trial.error:
        return f"{told}: {' '.join(trial.error.split())}"
    if trial.status == "paused":
        return told
    return f"{told}; {standing.num_over}/{standing.num_trials} trials over{_best(summarise(standing.record))}"


def _best(summary: Summary) -> str:
    best = summary.best_trial
    return "" if best is None else f", best {best.trial_id} with {summary.aim.metric} {number(best.metric)}"
