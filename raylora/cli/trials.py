"""The trials of a sweep as a table on a terminal, while they run and when they are over.

Records enter, something to print leaves; `raylora report` and the live display of `raylora sweep` show it. What people
copy, names of trials and places of adapters or models, is never cut or broken into lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raylora.cli.output import out
from raylora.cli.published import what_lies_at
from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.effects import knobs_of
from raylora.sweep.reporting.summary import Summary, summarise
from raylora.sweep.reporting.words import config_text, knob_labels, number, value_text

STYLES = {
    "running": "cyan",
    "paused": "dim",
    "succeeded": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "cancelled": "dim",
}


def print_trials(record: SweepRecord, console: Console = out) -> None:
    """Print all trials with what they published and their errors; lines longer than the terminal stay whole.

    Args:
        record: The sweep.
        console: Where to.
    """
    console.print(TrialsTable(record), crop=False)


class TrialsTable:
    """Trials, their knobs, how far they are and what they reached; the winner's are bold.

    Args:
        record: The sweep, over or not.
        max_rows: Trials to show at most, for a display that must fit a screen: those that run come first, then the
            best, and what is left out is counted. None shows all, in order, with what they published and errors.
    """

    def __init__(self, record: SweepRecord, max_rows: int | None = None) -> None:
        self._record = record
        self._summary = summarise(record)
        self._max_rows = max_rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        trials = self._record.trials
        if self._max_rows is not None:
            shown = chosen(trials, self._summary, self._max_rows)
            yield self._fitting(shown, console, options)
            if len(shown) < len(trials):
                yield Text(_left_out([trial for trial in trials if trial not in shown]), style="dim")
            return
        # A table narrower than what is in it would break places into pieces: then they follow below it.
        whole = self._table(trials, places=True)
        if _fits(whole, console, options):
            yield whole
        else:
            yield self._fitting(trials, console, options)
            for trial in trials:
                if trial.adapter_uri:
                    yield _line(trial, trial.adapter_uri)
        for trial in trials:
            if trial.error:
                yield _line(trial, f"failed: {' '.join(trial.error.split())}", style="red")

    def _fitting(self, trials: Sequence[TrialRecord], console: Console, options: ConsoleOptions) -> Table:
        """Give each knob a column, or all of them one where there is no room for that."""
        wide = self._table(trials)
        return wide if _fits(wide, console, options) else self._table(trials, narrow=True)

    def _table(self, trials: Sequence[TrialRecord], places: bool = False, narrow: bool = False) -> Table:
        knobs = knobs_of(self._record.trials)
        published = {what_lies_at(trial.adapter_uri) for trial in trials if trial.adapter_uri} if places else set()
        table = Table(box=box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD)
        # A width below which rich does not cut, however narrow the terminal.
        table.add_column("trial", no_wrap=True, min_width=max((len(trial.trial_id) for trial in trials), default=0))
        for name in [] if narrow else knob_labels(knobs).values():
            table.add_column(escape(name))
        table.add_column("steps", justify="right", no_wrap=True)
        table.add_column(escape(self._summary.aim.metric), justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True, min_width=max((len(trial.status) for trial in trials), default=0))
        if published:
            table.add_column(" or ".join(sorted(published)), no_wrap=True)
        if narrow:
            table.add_column("configuration", overflow="fold")
        winners = self._summary.winner.counted if self._summary.winner else ()
        for trial in trials:
            config = {knob: trial.config[knob] for knob in knobs if knob in trial.config}
            values = [] if narrow else [value_text(config[knob]) if knob in config else "" for knob in knobs]
            cells = [trial.trial_id, *values, str(trial.steps), "" if trial.metric is None else number(trial.metric)]
            row: list[Text] = [*map(Text, cells), Text(trial.status, style=STYLES[trial.status])]
            row += [Text(trial.adapter_uri or "")] if published else []
            # In a live display a trial is one line; the whole of it is printed at the end.
            row += [_live(config_text(config)) if self._max_rows else Text(config_text(config))] if narrow else []
            table.add_row(*row, style="bold" if trial in winners else None)
        return table


def chosen(trials: Sequence[TrialRecord], summary: Summary, max_rows: int) -> list[TrialRecord]:
    """Return the trials that a short table shows, in order: the running ones, then the best, then the newest.

    Args:
        trials: All trials.
        summary: What the sweep has found so far.
        max_rows: How many to return at most.
    """
    places = {trial.trial_id: place for place, each in enumerate(summary.ranking) for trial in each.counted}

    def urgency(trial: TrialRecord) -> tuple[bool, bool, int]:
        rank = places.get(trial.trial_id)
        return trial.status != "running", rank is None, -trial.number if rank is None else rank

    return sorted(sorted(trials, key=urgency)[:max_rows], key=lambda trial: trial.number)


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    return console.measure(table, options=options.update(width=10_000)).maximum <= options.max_width


def _live(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _left_out(trials: Sequence[TrialRecord]) -> str:
    statuses = [trial.status for trial in trials]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in STYLES if status in statuses)
    return f"and {counted}"


def _line(trial: TrialRecord, text: str, style: str = "") -> Text:
    """One line however long it is: the terminal breaks it on the screen and not in what is copied."""
    return Text(f"{trial.trial_id}  {text}", style=style, no_wrap=True, overflow="ignore")
