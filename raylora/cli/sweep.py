"""``raylora sweep``: many trials at once, a live table of them on a terminal, the winner at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylora.cli.config import tell_notes
from raylora.cli.output import Json, Overrides, out, print_json, say
from raylora.cli.published import what_lies_at
from raylora.errors import InterruptedRunError, RunFailedError
from raylora.runtime.first_look import first_look
from raylora.spec.sweeps.axolotl_grid import grid_sweep
from raylora.spec.sweeps.load import load_sweep

if TYPE_CHECKING:
    from raylora.store.sweeps import SweepRecord
    from raylora.sweep.standing import Listener, Standing


def sweep(
    path: Annotated[Path, typer.Argument(help="Sweep file; with --grid, a run's file.")],
    grid: Annotated[Path | None, typer.Option(help="axolotl's grid file over a run's file as SWEEP.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print trials at once, memory, time; start nothing.")] = False,
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Search: many adapters trained at once on shared bases, steered by Ray Tune."""
    loaded = load_sweep(path, set_ or ()) if grid is None else grid_sweep(path, grid, set_ or ())
    tell_notes(loaded.notes)
    if plan:
        from raylora.cli.plan import print_plan
        from raylora.sweep.planning.plan import plan_ahead

        print_plan(plan_ahead(loaded.spec), json_)
        return
    first_look(loaded.spec.run)
    from raylora.sweep import launch

    follow_sweep(lambda listen: launch.sweep(loaded.spec, listen), json_)


def follow_sweep(start: Callable[[Listener], dict[str, Any]], json_: bool) -> None:
    """Show a sweep while it runs, and its result.

    Args:
        start: Runs it; is given whom to tell how it stands.
        json_: Print the result for programs.

    Where it ends without a result, its trials are shown as they stand.

    Raises:
        InterruptedRunError: Ctrl-C after the sweep had finished; says what shows its result.
    """
    from raylora.cli.sweep_display import sweep_display
    from raylora.cli.trials import print_trials

    last: list[SweepRecord] = []
    try:
        with sweep_display() as show:

            def listen(standing: Standing) -> None:
                last[:] = [standing.record]
                show(standing)

            result = start(listen)
        if json_:
            print_json(result)
        else:
            print_result(last[0], result)
    except (InterruptedRunError, RunFailedError):
        if last and last[0].trials and not json_:
            print_trials(last[0])
        raise
    except KeyboardInterrupt:
        if last and last[0].status == "finished":  # what was interrupted is the end of the command, not the sweep
            raise InterruptedRunError(_has_finished(last[0])) from None
        raise


def _has_finished(record: SweepRecord) -> str:
    uri = record.spec["run"].get("storage", {}).get("uri")
    name = record.sweep_id + (f" --store {uri}" if uri else "")
    return (
        f"sweep {record.sweep_id} has finished; its result is shown by: raylora resume {name}; "
        f"its page is written by: raylora report {name}"
    )


def print_result(record: SweepRecord, result: dict[str, Any]) -> None:
    """Print the trials of a sweep that is over, what they say, and where everything is.

    Args:
        record: The sweep.
        result: What ``raylora sweep --json`` prints.
    """
    from raylora.cli.trials import print_trials
    from raylora.sweep.reporting.summary import summarise
    from raylora.sweep.reporting.words import config_text, span, verdict

    print_trials(record)
    for sentence in verdict(summarise(record)):
        say(sentence)
    say(f"{len(record.trials)} trials, {result['tokens']:,} tokens trained on, {span(result['wall_s'])}")
    out.print("where it is", style="italic")
    places = {
        "winner": result["best_config"] and f"{result['best_trial']}  {config_text(result['best_config'])}",
        what_lies_at(result["best_adapter_uri"] or ""): result["best_adapter_uri"],
        "MLflow run": result["mlflow_run_id"],
        "open it with": result["mlflow_command"],
        "report": f"raylora report {record.sweep_id}",
    }
    for name, place in places.items():
        if place:
            say(f"{name:<14}{place}")
