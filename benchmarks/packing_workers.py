"""Two workers over one 4-bit base: eight adapters in one step against eight steps of one adapter.

The pack is there in both forms: ranks share each slot's rows, and each rank has slots of its own. Alone, a slot's rows
are split over the ranks. A step has the same rows in all three. No Ray, one thread a worker. Beside them the roofline:
were there nothing but a step's gathers of the base and its products, each at the machine's own rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.packing import NUM_SLOTS, WARM_UP_TURNS, packing_work, say
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.summaries import ratios, summary
from benchmarks.turns import Report, Side, SideFailed, Stage
from benchmarks.workload import Workload

NUM_RANKS = 2
GOALS = {"fsdp": {"16": 4.8, "64": 2.2}, "zero3": {"16": 4.0, "64": 2.8}}
"""How many times faster a pack is to be, by the tokens of each slot's row on each rank."""
LENGTHS = ["16", "64"]
STRATEGIES = ("ddp", *GOALS)
SAME_LOSS = 1e-5
SHARED, AT_HOME = "slots shared by the ranks", "slots at home on a rank"


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """All strategies; ddp, which gathers nothing, without a goal.

    Args:
        material: What is trained on what.
        num_turns: Turns that count, after one that does not.
    """
    strategies = {
        strategy: _compare(
            material,
            packing_work(
                material,
                LENGTHS,
                strategy=strategy,
                num_ranks=NUM_RANKS,
                num_threads=1,
                rates_s=material.rates_s,
                square=material.square,
            ),
            num_turns,
        )
        for strategy in STRATEGIES
    }
    return {"goals": GOALS, "num_slots": NUM_SLOTS, "num_ranks": NUM_RANKS, "strategies": strategies}


def _compare(material: Material, work: Workload, num_turns: int) -> dict[str, Any]:
    at_home = replace(work, options=work.options | {"slots_stay_on_ranks": True, "rates_s": 0.0})
    with Stage() as stage:
        sides = {
            SHARED: enter_raylora(stage, work, material.folder, SHARED, "packing_side"),
            AT_HOME: enter_raylora(stage, at_home, material.folder, AT_HOME, "packing_side"),
        }
        turns: dict[str, list[Report]] = {name: [] for name in sides}
        for turn in range(WARM_UP_TURNS + num_turns):
            for name, side in sides.items():
                turns[name].append(_turn(side))
            shared, home = turns[SHARED][-1], turns[AT_HOME][-1]
            say(turn, num_turns, {n: (s["alone_s"], s["pack_s"], home[n]["pack_s"]) for n, s in shared.items()})
    lengths = list(work.options["rows"])
    for name in lengths:
        _check_same_losses(turns[SHARED][0][name], turns[AT_HOME][0][name])
    counted = {
        length: {name: [told[length] for told in reports[WARM_UP_TURNS:]] for name, reports in turns.items()}
        for length in lengths
    }
    return {
        "base_bytes_per_rank": {name: [told["base_bytes"] for told in side.ready] for name, side in sides.items()},
        "lengths": {length: _compared(told) for length, told in counted.items()},
    }


def _turn(side: Side) -> Report:
    """One turn of a side: by length the seconds of its slowest rank, and all losses, slot by slot."""
    ranks = [told["lengths"] for told in side.turn()]
    return {name: _over_ranks([of_rank[name] for of_rank in ranks]) for name in ranks[0]}


def _over_ranks(told: Sequence[Report]) -> Report:
    seconds = {name: max(of_rank[name] for of_rank in told) for name in ("alone_s", "pack_s") if name in told[0]}
    if "alone_s" in seconds:  # shared: every rank tells the losses of all slots, and has an equal part of the work
        losses = told[0]["pack_losses"]
        seconds["gather_s"] = max(of_rank["gather_s"] for of_rank in told)
        seconds["products_s"] = max(_products_s(of_rank) for of_rank in told)
    else:
        losses = [loss for of_slots in zip(*(t["pack_losses"] for t in told), strict=True) for loss in of_slots]
    return {**seconds, "losses": losses, "num_tokens": sum(of_rank["num_tokens"] for of_rank in told)}


def _products_s(told: Report) -> float:
    """A rank's part of a step of all slots, at the rate of the faster kernel."""
    return told["flops"] / max(kernel["model_shapes"] for kernel in told["flops_per_s"].values())


def _check_same_losses(shared: Report, home: Report) -> None:
    """The first losses come before the first update: they differ only if the rows do."""
    apart = max(abs(one - other) for one, other in zip(shared["losses"], home["losses"], strict=True))
    if apart > SAME_LOSS:
        raise SideFailed(f"the first losses differ by {apart}: {shared['losses']} and {home['losses']}")


def _compared(turns: dict[str, list[Report]]) -> dict[str, Any]:
    alone_s = [told["alone_s"] for told in turns[SHARED]]
    packs_s = {name: [told["pack_s"] for told in reports] for name, reports in turns.items()}
    gather_s, products_s = ([told[name] for told in turns[SHARED]] for name in ("gather_s", "products_s"))
    least_alone_s = [NUM_SLOTS * gathers + products for gathers, products in zip(gather_s, products_s, strict=True)]
    least_pack_s = [gathers + products for gathers, products in zip(gather_s, products_s, strict=True)]
    return {
        "tokens": turns[SHARED][0]["num_tokens"],
        "alone_s": summary(alone_s),
        "gather_s": summary(gather_s),
        "products_s": summary(products_s),
        "at_most_faster_by": ratios(least_alone_s, least_pack_s),
        "packs": {
            name: {"pack_s": summary(pack_s), "is_faster_by": ratios(alone_s, pack_s)}
            for name, pack_s in packs_s.items()
        },
    }
