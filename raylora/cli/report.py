"""The command ``report``: a sweep as a page, pictures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raylora.cli.output import Json, out, print_json
from raylora.cli.trials import print_trials
from raylora.errors import InputError


def report(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep.")],
    store: Annotated[str | None, typer.Option(help="Store of the sweep; raylora's home where absent.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the page and its pictures; SWEEP-report where absent.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write a sweep's page and pictures, over or still running: curves, knobs, sizes, the winner ready to run."""
    from raylora.store.before_start import before_start
    from raylora.store.blob import open_store
    from raylora.store.home import default_store_uri
    from raylora.store.sweeps import read_sweep
    from raylora.sweep.reporting.report import write_report
    from raylora.sweep.reporting.words import verdict

    with before_start():
        record = read_sweep(open_store(store or default_store_uri()), sweep)
    folder = folder or Path(f"{record.sweep_id}-report")
    try:
        written = write_report(record, folder)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}; name another folder") from error
    sentences = verdict(written.summary)
    places = {"page": written.page, **written.pictures} | ({"winner": written.winner} if written.winner else {})
    if json_:
        best, winner = written.summary.best_trial, written.summary.winner
        found: dict[str, Any] = {
            "sweep_id": record.sweep_id,
            "status": record.status,
            "best_trial": best.trial_id if best else None,
            "best_config": best.config if best else None,
            "best_metric": best.metric if best else None,
            "best_mean": winner.mean if winner else None,
            "num_trials": len(record.trials),
            "verdict": sentences,
            "page": str(written.page),
            "pictures": {name: str(path) for name, path in written.pictures.items()},
            "winner": str(written.winner) if written.winner else None,
        }
        print_json(found)
        return
    print_trials(record)
    for sentence in sentences:
        out.print(sentence, markup=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ignore")
    for name, path in places.items():
        table.add_row(name, escape(str(path)))
    out.print(table, crop=False)
