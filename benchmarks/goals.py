"""Every goal beside what was measured, in one table: what is missed is seen at once, and said by nobody's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.packing_workers import AT_HOME, SHARED
from benchmarks.results import load
from benchmarks.tables import table
from raylora.sweep.planning.width import stay_on_ranks


@dataclass(frozen=True)
class Goal:
    """One figure that was asked for.

    Args:
        what: It is of.
        found: As measured; the median of turns.
        least: It is to be.
        most: It is to be.
        unit: Behind figures.
    """

    what: str
    found: float
    least: float = -math.inf
    most: float = math.inf
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        """Whether it is what was asked for."""
        return self.least <= self.found <= self.most

    @property
    def row(self) -> tuple[str, str, str, str]:
        """As people read it."""
        limit, words = (self.most, "at most") if self.least == -math.inf else (self.least, "at least")
        found = f"{self.found:.2f}{self.unit}"
        return self.what, f"{words} {limit:g}{self.unit}", found, "met" if self.is_met else "**missed**"


def goals(results: Path) -> str:
    """The table.

    Args:
        results: Folder of the results; what was not measured is left out.
    """
    found = [goal for name, of in OF.items() if (told := load(results, name)) for goal in of(told["results"])]
    return table(("", "goal", "measured", ""), [goal.row for goal in found])


def _demo(results: Mapping[str, Any]) -> Iterator[Goal]:
    asked = results["goals"]
    for how, run in results["runs"].items():
        yield Goal(f"the run of `make demo` in {how}, wall clock", run["wall_s"], most=asked["wall_s"], unit=" s")
        falls, least = 100 * run["loss_falls_by"], 100 * asked["loss_falls_by"]
        yield Goal(f"the same in {how}, validation loss falls by", falls, least=least, unit=" %")


def _solo(results: Mapping[str, Any]) -> Iterator[Goal]:
    asked, cases = results["goals"], results["cases"]
    for case, name in (("all tokens", "steps"), ("binned", "binned")):
        faster = cases[case]["times_faster_than"]["trl"]["median"]
        yield Goal(f"one process against TRL, {case}", faster, least=asked[name])
    for kernel, found in cases["all tokens"]["of_matrix_products"]["kernels"].items():
        share, least = 100 * found["model_shapes"]["step_reaches"]["median"], 100 * asked["of_matrix_products"]
        yield Goal(f"its step, of `{kernel}`'s rate at the model's shapes", share, least=least, unit=" %")


def _saving(results: Mapping[str, Any]) -> Iterator[Goal]:
    what = f"time lost to a checkpoint every {results['steps_between']} steps"
    yield Goal(what, 100 * results["lost"]["median"], most=100 * results["goal"], unit=" %")


def _packing(results: Mapping[str, Any]) -> Iterator[Goal]:
    for tokens, found in results["lengths"].items():
        faster = found["pack_is_faster_by"]["median"]
        yield Goal(f"a pack of 8, {tokens} tokens a slot", faster, least=results["goals"][tokens])
    for what, lengths in results["others"].items():
        least = min(found["pack_is_faster_by"]["median"] for found in lengths.values())
        yield Goal(f"a pack of 8 {what}, whatever the length", least, least=results["never_below"])


def _packing_workers(results: Mapping[str, Any]) -> Iterator[Goal]:
    """Of the two places that slots can have the one that a sweep gives them, be it the faster or not."""
    place = AT_HOME if stay_on_ranks(results["num_slots"], results["num_ranks"]) else SHARED
    for strategy, asked in results["goals"].items():
        for tokens, length in results["strategies"][strategy]["lengths"].items():
            faster = length["packs"][place]["is_faster_by"]["median"]
            yield Goal(f"a pack of 8 on two workers, {strategy}, {tokens} tokens", faster, least=asked[tokens])


def _slots(results: Mapping[str, Any]) -> Iterator[Goal]:
    grown = results["growth_per_slot"]
    off = abs(grown["resident_bytes"] / grown["predicted_bytes"] - 1)
    yield Goal("what each further slot takes of memory, off its prediction by", 100 * off, most=5, unit=" %")


def _makespan(results: Mapping[str, Any]) -> Iterator[Goal]:
    name, found = results["name"], results["found"]["no early stopping"]
    for how, goal in results["asked"]["goals"].items():
        yield Goal(f"a sweep of {name} against Ray Tune {how}", found["raylora_is_faster_by"][how], least=goal)
    for kernel, floor_s in results["floor"]["floor_s"].items():
        of_floor = found["sides"]["raylora"]["makespan_s"] / floor_s
        yield Goal(f"a sweep of {name}, of the floor by `{kernel}`", of_floor, most=results["floor_goal"])


OF: dict[str, Callable[[Mapping[str, Any]], Iterator[Goal]]] = {
    "demo": _demo,
    "solo": _solo,
    "saving": _saving,
    "packing": _packing,
    "packing_workers": _packing_workers,
    "slots": _slots,
    "makespan_short": _makespan,
    "makespan_longer": _makespan,
}
"""By benchmark; the others have none."""
