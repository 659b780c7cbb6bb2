"""A sweep's plan on a terminal, or as JSON: packs and slots, bytes of a worker, predicted time.

A plan enters; what to print leaves. `raylora sweep --plan` calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raylora.cli.output import out, print_json, say

if TYPE_CHECKING:
    from raylora.sweep.plan import Group, Plan


SLOWER = 0.97
"""A predicted speed-up below which a plan warns."""


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
    for number, group in enumerate(plan.groups, start=1):
        for line in _reasons(group):
            say(f"{number}: {line}", console)
    if plan.takes_turns:
        say("groups take turns: there is no room for the workers of all of them at once", console)
    if plan.predicted_s is None:
        say("predicted: no time, for the reasons above; nothing was started", console)
    else:
        say(
            f"predicted: {_time(plan.predicted_s)} for the sweep without early stops, from one block of the model that "
            "was timed on this machine; what travels between workers is not in it. Nothing was started",
            console,
        )


def _table(plan: Plan) -> Table:
    table = Table()
    table.add_column("", no_wrap=True)
    for number in range(1, len(plan.groups) + 1):
        table.add_column(f"group {number}", justify="right")
    for name, cells in _rows(plan).items():
        table.add_row(name, *map(escape, cells), end_section=name in ("slots live", "memory allowed"))
    return table


def _rows(plan: Plan) -> dict[str, list[str]]:
    groups = plan.groups
    rows = {
        "trials": [str(group.num_trials) for group in groups],
        "packs at once": [
            f"{group.num_packs}, one trial each" if group.why_alone else str(group.num_packs) for group in groups
        ],
        "slots of a pack": [str(group.width.num_slots) for group in groups],
        "workers of a pack": [str(group.largest.distributed.num_workers) for group in groups],
        "sequence_len": [str(group.largest.sequence_len) for group in groups],
        "slots live": [_where(group) for group in groups],
    }
    ranks = [max(group.memory.ranks, key=lambda rank: rank.peak_bytes) for group in groups]
    rows |= {
        "a worker's base": [_mb(rank.base_bytes) for rank in ranks],
        "each slot more": [_mb(group.slot.num_bytes) for group in groups],
        "  adapter": [_mb(group.slot.adapter_bytes) for group in groups],
        "  gradients": [_mb(group.slot.gradients_bytes) for group in groups],
        "  moments": [_mb(group.slot.moments_bytes) for group in groups],
        "activations of all slots": [_mb(rank.activations_bytes) for rank in ranks],
        "logits": [_mb(rank.logits_bytes) for rank in ranks],
        "gathered from others": [_mb(rank.gathered_bytes) for rank in ranks],
        "peak, all slots filled": [_mb(rank.peak_bytes) for rank in ranks],
        "memory allowed": [_mb(group.bytes_per_worker) for group in groups],
    }
    times = [group.duration for group in groups]
    rows |= {
        "predicted steps of a trial": [str(time.num_steps) if time else "-" for time in times],
        "predicted start": [_time(time.start_s) if time else "-" for time in times],
        "predicted steps": [_time(time.steps_s) if time else "-" for time in times],
        "predicted evaluations": [_time(time.evaluations_s) if time else "-" for time in times],
        "predicted tokens/s of a pack": [f"{time.tokens_per_s:,.0f}" if time else "-" for time in times],
        "predicted over trials alone": [f"{time.speedup:.2f}x" if time else "-" for time in times],
    }
    if not any(rank.gathered_bytes for rank in ranks):
        del rows["gathered from others"]
    return rows


def _where(group: Group) -> str:
    if group.largest.distributed.num_workers == 1:
        return "on its worker"
    return "each on one worker" if group.width.slots_stay_on_ranks else "on every worker"


def _reasons(group: Group) -> list[str]:
    width = group.width
    found = [f"alone: {group.why_alone}"] if group.why_alone else [f"{width.num_slots} slots: {width.why_so_many}"]
    found += [] if group.why_alone else [f"where they live: {width.why_there}"]
    found += [] if group.fits else [f"memory: {width.why_so_many}"]
    if group.duration is not None and group.duration.speedup < SLOWER:
        found += [
            "so many slots may be slower than trials alone: a pack times fewer when it starts, and keeps the best"
        ]
    found += [f"no predicted time: {group.why_no_duration}"] if group.why_no_duration else []
    return found


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
