"""The command ``runs``: what ran in a store, runs and sweeps, how it stands and where adapters and models are.

On a narrow terminal there are fewer columns and no broken lines: what people copy from, the names, is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from raylora.cli.output import Json, out, print_json, say
from raylora.cli.published import what_comes_of, what_lies_at

if TYPE_CHECKING:
    from raylora.store.runs import RunRecord
    from raylora.store.sweeps import SweepRecord

TIME = "%Y-%m-%d %H:%M"
WIDE_ONLY = ("created", "base of its run")
"""Columns that a narrow table goes without: a name begins with its time. A run's base is cut to what is left."""

Rows = Sequence[Mapping[str, str]]


def runs(
    store: Annotated[str | None, typer.Option(help="Store to list; raylora's home where absent.")] = None,
    json_: Json = False,
) -> None:
    """List runs and sweeps, newest first."""
    from raylora.store.before_start import before_start
    from raylora.store.blob import open_store
    from raylora.store.home import default_store_uri
    from raylora.store.runs import FOLDER, list_runs, run_status_now
    from raylora.store.sweeps import list_sweeps, sweep_status_now
    from raylora.sweep.result import sweep_result

    with before_start():
        opened = open_store(store or default_store_uri())
        if store:  # raylora's own home may still be without one
            opened.check_there()
        found = [(record, run_status_now(opened, record)) for record in list_runs(opened)]
        swept = [(record, sweep_status_now(opened, record)) for record in list_sweeps(opened)]
    results = [
        sweep_result(record) | {"status": status, "num_over": sum(trial.is_over for trial in record.trials)}
        for record, status in swept
    ]
    if json_:
        listed = [record.model_dump(mode="json") | {"status": status} for record, status in found]
        times = [record.model_dump(mode="json", include={"created", "updated"}) for record, _ in swept]
        print_json({"runs": listed, "sweeps": [time | result for time, result in zip(times, results, strict=True)]})
        return
    if not found and not swept:
        say(f"no runs in {opened.uri}; start one with: raylora train FILE")
    _print([_run(record, status) for record, status in found])
    if found:
        for what in sorted({what_comes_of(record.spec) for record, _ in found}):
            say(f"{what}s: {opened.uri_of(FOLDER)}/RUN/{what}")
    _print([_sweep(record, result) for (record, _), result in zip(swept, results, strict=True)])
    for result in results:
        if uri := result["best_adapter_uri"]:
            say(f"{what_lies_at(uri)} of {result['sweep_id']} {result['best_trial']}: {uri}")
    if "lost" in [status for _, status in (*found, *swept)]:
        where = f" --store {store}" if store else ""
        say(f"lost: the command that ran it is gone; go on with: raylora resume NAME{where}")


def _run(record: RunRecord, status: str) -> dict[str, str]:
    result = record.result or {}
    loss, uri = result.get("eval_loss"), result.get("adapter_uri")
    return {
        "run": record.run_id,
        "status": status,
        "created": f"{record.created:{TIME}}",
        "base": _last_part(record.spec),
        "eval_loss": f"{loss:.4f}" if loss is not None else "",
        "published": what_lies_at(uri) if uri else "",
    }


def _sweep(record: SweepRecord, result: Mapping[str, Any]) -> dict[str, str]:
    from raylora.sweep.reporting.words import number

    best, metric = result["best_trial"], record.spec.get("metric", "")
    return {
        "sweep": result["sweep_id"],
        "status": result["status"],
        "created": f"{record.created:{TIME}}",
        "base of its run": _last_part(record.spec.get("run", {})),
        "trials over": str(result["num_over"]),
        "best": f"{best} {metric} {number(result['best_metric'])}" if best else "",
    }


def _last_part(spec: Mapping[str, Any]) -> str:
    """Name a base by the last part of its place, which may be long."""
    return str(spec.get("base_model", "")).rstrip("/").rpartition("/")[2]


def _print(rows: Rows) -> None:
    """Print a table as wide as it is, or, where the terminal is narrower, without what can be left out."""
    if not rows:
        return
    wide = _table(rows, box.HEAVY_HEAD)
    if _excess(wide) <= 0:
        out.print(wide)
        return
    kept = [{name: cell for name, cell in row.items() if name not in WIDE_ONLY} for row in rows]
    narrow = _table(kept, box.SIMPLE_HEAD)
    room = max(len(row.get("base", "")) for row in kept) - max(0, _excess(narrow))
    cut = [row | ({"base": _cut(row["base"], room)} if "base" in row else {}) for row in kept]
    out.print(_table(cut, box.SIMPLE_HEAD), crop=False)


def _excess(table: Table) -> int:
    return out.measure(table, options=out.options.update(width=10_000)).maximum - out.width


def _cut(text: str, room: int) -> str:
    room = max(room, len("base"))
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _table(rows: Rows, lines: box.Box) -> Table:
    table = Table(box=lines)
    for name in rows[0]:
        # A width below which rich does not cut, however narrow the terminal.
        table.add_column(name, no_wrap=True, min_width=max(len(name), *(len(row[name]) for row in rows)))
    for row in rows:
        table.add_row(*(escape(cell) for cell in row.values()))
    return table
