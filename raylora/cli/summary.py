"""What is seen when a run is over: numbers, answers before and after, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raylora.cli.output import out, say
from raylora.cli.published import what_lies_at


def print_summary(result: dict[str, Any]) -> None:
    """Print the tables of a finished run.

    Args:
        result: What ``raylora train --json`` prints.
    """
    out.print(_numbers(result))
    samples = result["samples"]
    if samples["after"]:
        print_answers(result["sample_prompts"], {"before": samples["before"], "after": samples["after"]})
    out.print("where it is", style="italic")
    for name, place in _places(result).items():
        say(f"{name:<14}{place}", out)


def print_answers(prompts: Sequence[str], columns: Mapping[str, Sequence[str]]) -> None:
    """Print answers side by side, to the letter: what a model writes is no markup.

    Args:
        prompts: What was asked.
        columns: Answers to each of them, by who gave them.
    """
    table = Table(title="answers", title_justify="left", show_lines=True)
    for name in ("prompt", *columns):
        table.add_column(escape(name), overflow="fold")
    for cells in zip(prompts, *columns.values(), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)


def _numbers(result: dict[str, Any]) -> Table:
    table = Table(title=f"run {result['run_id']}", show_header=False, title_justify="left")
    before, after = result["eval_loss_before"], result["eval_loss"]
    if before is not None:
        table.add_row("validation loss", f"{before:.4f} before, {after:.4f} after ({after / before - 1:+.1%})")
    for name, value in result.get("eval_metrics", {}).items():
        table.add_row(f"validation {name.removeprefix('eval_').replace('_', ' ')}", f"{value:.4g}")
    table.add_row("training loss", f"{result['train_loss']:.4f} at step {result['steps']}")
    table.add_row("throughput", f"{result['tokens_per_s']:,.0f} tokens/s, {result['tokens']:,} tokens trained on")
    table.add_row("trainable parameters", f"{result['trainable_parameters']:,}")
    held = ", ".join(f"{size / 1e6:.1f} MB" for size in result["base_bytes_per_rank"])
    table.add_row(f"base per rank ({result['strategy']})", held)
    table.add_row("wall clock", f"{result['wall_s']:.0f} s")
    return table


def _places(result: dict[str, Any]) -> dict[str, str]:
    last, best = result["checkpoint_uri"], result.get("best_checkpoint_uri")
    trained: str = result["adapter_uri"]
    places: dict[str, str | None] = {
        what_lies_at(trained): trained,
        "talk to it": result.get("chat_command"),  # results of before have none of these commands
        "checkpoint": last,
        "the best one": None if best == last else best,
        "MLflow run": result["mlflow_run_id"],
        "open it with": result["mlflow_command"],
        "show again": result.get("resume_command"),  # a run that is over trains no further
    }
    return {name: place for name, place in places.items() if place is not None}
