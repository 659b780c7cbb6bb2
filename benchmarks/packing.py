"""One process: eight adapters in one step against eight steps of one adapter, on the same placed base.

Beside it the roofline: what the pack needs in floating-point operations against the machine's own products.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.products import SQUARE
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.summaries import held_against, ratios, summary
from benchmarks.turns import Report, Stage
from benchmarks.workload import UNLIKE, Workload

NUM_SLOTS = 8
GOALS = {"16": 2.0, "64": 1.4, "128": 1.2, "256": 1.0}
"""How many times faster a pack is to be, by the tokens of each slot's row."""
NEVER_BELOW = 0.97
OTHERS: dict[str, dict[str, Any]] = {
    "slots that are not alike, float32": {"settings": UNLIKE},
    "slots that are alike, bfloat16": {"dtype": "bfloat16"},
}
"""Packs that are measured without goals of their own."""
OTHER_TURNS = 3
WARM_UP_TURNS = 1


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """All lengths.

    Args:
        material: What is trained on what.
        num_turns: Turns that count, after one that does not.
    """
    threads = material.num_threads
    counted = _turns(material, num_turns, num_threads=threads, rates_s=material.rates_s, square=material.square)
    others = {
        name: _turns(material, min(num_turns, OTHER_TURNS), num_threads=threads, **fields)
        for name, fields in OTHERS.items()
    }
    return {
        "goals": GOALS,
        "never_below": NEVER_BELOW,
        "threads": threads,
        "num_slots": NUM_SLOTS,
        "lengths": {name: _compared([told[name] for told in counted]) for name in GOALS},
        "others": {
            what: {name: _times([told[name] for told in turns]) for name in GOALS} for what, turns in others.items()
        },
    }


def _turns(material: Material, num_turns: int, **fields: Any) -> list[Report]:
    """Turns that count of one workload: what each length told."""
    work = packing_work(material, list(GOALS), **fields)
    turns = []
    with Stage() as stage:
        side = enter_raylora(stage, work, material.folder, "pack and alone", "packing_side")
        for turn in range(WARM_UP_TURNS + num_turns):
            turns.append(side.turn()[0]["lengths"])
            say(turn, num_turns, {name: (told["alone_s"], told["pack_s"]) for name, told in turns[-1].items()})
    return turns[WARM_UP_TURNS:]


def packing_work(material: Material, lengths: Sequence[str], **fields: Any) -> Workload:
    """The workload of `packing_side`, one row a slot and rank.

    Args:
        material: What is trained on what.
        lengths: Tokens of a row.
        fields: Of the workload, and ``slots_stay_on_ranks``, ``settings``, ``rates_s`` and ``square`` of its options.
    """
    rows = {name: str(material.lines(int(name))) for name in lengths}
    defaults = {"slots_stay_on_ranks": False, "rates_s": 0.0, "square": SQUARE, "settings": [{}]}
    own = {name: fields.pop(name, default) for name, default in defaults.items()}
    options = {"num_slots": NUM_SLOTS, "rows": rows, **own}
    return Workload(str(material.base), rows[lengths[0]], micro_batch_rows=1, options=options, **fields)


def say(turn: int, num_turns: int, seconds: dict[str, tuple[float, ...]]) -> None:
    """Tell people how a turn went."""
    words = ", ".join(f"{name}: {' / '.join(f'{taken:.2f}' for taken in times)} s" for name, times in seconds.items())
    print(f"turn {turn} of {num_turns}: {words}", file=sys.stderr, flush=True)


def _times(turns: Sequence[Report]) -> dict[str, Any]:
    alone_s, pack_s = ([told[name] for told in turns] for name in ("alone_s", "pack_s"))
    return {
        "tokens": turns[0]["num_tokens"],
        "alone_s": summary(alone_s),
        "pack_s": summary(pack_s),
        "pack_is_faster_by": ratios(alone_s, pack_s),
    }


def _compared(turns: Sequence[Report]) -> dict[str, Any]:
    alone_s, pack_s = ([told[name] for told in turns] for name in ("alone_s", "pack_s"))
    made = [told["flops"] / seconds for told, seconds in zip(turns, pack_s, strict=True)]
    rates = [told["flops_per_s"] for told in turns]
    # Were every operation done at the rate of the faster kernel, the step would take this long.
    fastest = [max(kernel["model_shapes"] for kernel in turn.values()) for turn in rates]
    least_s = [told["flops"] / rate for told, rate in zip(turns, fastest, strict=True)]
    return _times(turns) | {
        "at_most_faster_by": ratios(alone_s, least_s),
        "of_matrix_products": {
            "step_flops": turns[0]["flops"],
            "step_flops_per_s": summary(made),
            "kernels": held_against(rates, made),
        },
    }
