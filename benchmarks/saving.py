"""What a checkpoint costs the run that it is of: its own wait, and the steps beside which it is written to a disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.packing import WARM_UP_TURNS, say
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.summaries import summary
from benchmarks.turns import Stage
from benchmarks.workload import Workload

ROW_TOKENS = 128
STEPS = 4
"""More than the disk takes for a checkpoint."""
STEPS_BETWEEN = 50
GOAL = 0.02
"""Part of the time of so many steps that one checkpoint may take."""


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Some steps without and some with a checkpoint, in turns.

    Args:
        material: What is trained on what.
        num_turns: Turns that count.
    """
    store = material.folder / "store"
    work = Workload(str(material.base), str(material.lines(ROW_TOKENS)), num_threads=material.num_threads)
    work = replace(work, options={"store": str(store), "num_steps": STEPS})
    turns = []
    with Stage() as stage:
        side = enter_raylora(stage, work, material.folder, "saving", "saving_side")
        for turn in range(WARM_UP_TURNS + num_turns):
            (told,) = side.turn()
            turns.append(told)
            say(turn, num_turns, {"without, with": (told["without_s"], told["with_s"])})
    counted = turns[WARM_UP_TURNS:]
    steps_s = [told["without_s"] / STEPS for told in counted]
    lost = [
        (told["with_s"] - told["without_s"]) / (STEPS_BETWEEN * step_s)
        for told, step_s in zip(counted, steps_s, strict=True)
    ]
    return {
        "goal": GOAL,
        "steps_between": STEPS_BETWEEN,
        "threads": work.num_threads,
        "step_s": summary(steps_s),
        "waited_s": summary([told["waited_s"] for told in counted]),
        "written_s": summary([told["written_s"] for told in counted]),
        "lost": summary(lost),
    }
