"""``raylora sweep``: many trials at once, a live table of them on a terminal, the winner at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from raylora.cli.output import Json, Overrides, err, print_json, say
from raylora.spec.load_sweep import load_sweep

if TYPE_CHECKING:
    from raylora.store.sweeps import SweepRecord

MAX_LIVE_ROWS = 16
REFRESH_S = 0.5


def sweep(
    path: Annotated[Path, typer.Argument(help="Sweep file.")],
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Search: many adapters trained at once on shared bases, steered by Ray Tune."""
    loaded = load_sweep(path, set_ or ())
    for note in loaded.notes:
        say(note, err)
    from raylora.sweep import launch

    follow_sweep(lambda listen: launch.sweep(loaded.spec, listen), json_)


def follow_sweep(start: Callable[[Callable[[SweepRecord], None]], dict[str, Any]], json_: bool) -> None:
    """Show a sweep while it runs, and its result.

    Args:
        start: Runs it; is given whom to tell how it stands.
        json_: Print the result for programs.
    """
    last: list[SweepRecord] = []
    with sweep_display() as show:

        def listen(record: SweepRecord) -> None:
            last[:] = [record]
            show(record)

        result = start(listen)
    if json_ or not last:
        print_json(result)
        return
    from raylora.cli.trials import print_trials
    from raylora.sweep.summary import summarise
    from raylora.sweep.words import verdict

    print_trials(last[0])
    for sentence in verdict(summarise(last[0])):
        say(sentence)
    say(f"report: raylora report {result['sweep_id']}")


@contextmanager
def sweep_display() -> Iterator[Callable[[SweepRecord], None]]:
    """What fits stderr: a table that is drawn again, or a line for each trial that ends."""
    from raylora.cli.trials import TrialsTable

    if not err.is_terminal:
        yield _Lines().show
        return
    with Live(console=err, auto_refresh=False) as live:
        drawn_at = 0.0

        def show(record: SweepRecord) -> None:
            nonlocal drawn_at
            if time.monotonic() - drawn_at >= REFRESH_S:
                drawn_at = time.monotonic()
                live.update(TrialsTable(record, max_rows=MAX_LIVE_ROWS), refresh=True)

        yield show


class _Lines:
    """A line for each trial that begins or ends, for logs and pipes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def show(self, record: SweepRecord) -> None:
        """Print what changed."""
        for trial in record.trials:
            if self._said.get(trial.trial_id) != trial.status:
                self._said[trial.trial_id] = trial.status
                metric = "" if trial.metric is None else f" {trial.metric:.4f}"
                say(f"trial {trial.trial_id} {trial.status}: step {trial.steps}{metric} {trial.config}", err)
