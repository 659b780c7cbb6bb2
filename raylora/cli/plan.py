"""A sweep's plan on a terminal, or as JSON: packs and slots, bytes of a worker, predicted time.

A plan enters; what to print leaves. `raylora sweep --plan` calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raylora.cli.output import out, print_json

if TYPE_CHECKING:
    from raylora.sweep.planning.plan import Group, Plan


SLOWER = 0.9
"""A predicted speed-up below which a plan warns: timings of one machine differ by some per cent."""

WORDS = (
    "a pack is one group of workers that holds the base once and trains several trials on it at the same time, each in "
    "a slot of its own: its adapter, its optimizer, its rows"
)


def print_plan(plan: Plan, as_json: bool = False, console: Console = out) -> None:
    """Print a plan.

    Args:
        plan: What `plan_sweep` gave.
        as_json: Print one JSON object on standard output instead.
        console: Where to.
    """
    if as_json:
        print_json(plan.to_json())
        return
    console.print(_table(plan))
    for line in _lines(plan):
        console.print(line, markup=False, highlight=False)


def _lines(plan: Plan) -> list[str]:
    """What is said below the table."""
    found = [WORDS] if any(group.why_alone is None for group in plan.groups) else []
    found += [
        f"group {number}: {line}" for number, group in enumerate(plan.groups, start=1) for line in _reasons(group)
    ]
    found += ["groups take turns: there is no room for the workers of all of them at once"] if plan.takes_turns else []
    if plan.predicted_s is None:
        return [*found, "predicted: no time, for the reasons above. Nothing was started"]
    return [
        *found,
        f"predicted: {_time(plan.predicted_s)} for the sweep if no trial is stopped early, from one block of the model "
        "that was timed on this machine; what travels between workers is not in it, and starts are those of two cores "
        "with a base of so many values, not timed here. Nothing was started",
    ]


def _table(plan: Plan) -> Table:
    table = Table()
    table.add_column("", no_wrap=True)
    for number in range(1, len(plan.groups) + 1):
        table.add_column(f"group {number}", justify="right")
    for name, cells in _rows(plan).items():
        table.add_row(name, *map(escape, cells), end_section=name in ("a trial's rows", "memory allowed"))
    return table


def _rows(plan: Plan) -> dict[str, list[str]]:
    groups = plan.groups
    rows = {
        "trials": [str(group.num_trials) for group in groups],
        "packs at once": [
            f"{group.num_packs}, one trial each" if group.why_alone else str(group.num_packs) for group in groups
        ],
        "trials at once in a pack": [str(group.width.num_slots) for group in groups],
        "workers of a pack": [str(group.largest.distributed.num_workers) for group in groups],
        "sequence_len": [str(group.largest.sequence_len) for group in groups],
        "a trial's rows": [_where(group) for group in groups],
    }
    ranks = [max(group.memory.ranks, key=lambda rank: rank.peak_bytes) for group in groups]
    rows |= {
        "a worker's base": [_mb(rank.base_bytes) for rank in ranks],
        "each trial more": [_mb(group.slot.num_bytes) for group in groups],
        "  adapter": [_mb(group.slot.adapter_bytes) for group in groups],
        "  gradients": [_mb(group.slot.gradients_bytes) for group in groups],
        "  moments": [_mb(group.slot.moments_bytes) for group in groups],
        "activations of its trials": [_mb(rank.activations_bytes) for rank in ranks],
        "logits": [_mb(rank.logits_bytes) for rank in ranks],
        "gathered from others": [_mb(rank.gathered_bytes) for rank in ranks],
        "peak, all at once": [_mb(rank.peak_bytes) for rank in ranks],
        "held at most": [_mb(group.held_bytes) for group in groups],
        "memory allowed": [_mb(group.bytes_per_worker) for group in groups],
    }
    times = [group.duration for group in groups]
    rows |= {
        "steps of a trial": [str(time.num_steps) if time else "-" for time in times],
        "predicted start": [_time(time.start_s) if time else "-" for time in times],
        "predicted training": [_time(time.steps_s) if time else "-" for time in times],
        "predicted evaluations": [_time(time.evaluations_s) if time else "-" for time in times],
        "predicted tokens/s of a pack": [f"{time.tokens_per_s:,.0f}" if time else "-" for time in times],
        "one trial after the other": [_time(time.one_by_one_s) if time else "-" for time in times],
    }
    if not any(rank.gathered_bytes for rank in ranks):
        del rows["gathered from others"]
    return rows


def _where(group: Group) -> str:
    if group.largest.distributed.num_workers == 1:
        return "on the worker"
    return "on one worker" if group.width.slots_stay_on_ranks else "on all workers"


def _reasons(group: Group) -> list[str]:
    width = group.width
    if group.why_alone:
        found = [f"each trial runs alone: {group.why_alone}"]
    else:
        found = [f"{width.num_slots} trials at once in a pack: {width.why_so_many}", width.why_there]
    asked = group.largest.distributed.num_workers
    if group.num_places < asked:
        found += [
            f"workers: {asked} are asked for, and there is room for {group.num_places}: they are waited for where the "
            "cluster grows, and refused elsewhere"
        ]
    found += [] if group.fits else [f"memory: {width.why_so_many}"]
    if group.duration is not None and group.duration.speedup < SLOWER:
        found += [
            "so many at once may be slower than fewer; unless the sweep sets `slots`, a pack tries fewer when it "
            "starts and keeps the fastest"
        ]
    found += [f"no predicted time: {group.why_no_duration}"] if group.why_no_duration else []
    return found


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
