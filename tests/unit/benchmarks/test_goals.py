"""Goals are held against what users get."""

from __future__ import annotations

import pytest

from benchmarks.goals import OF
from benchmarks.packing_workers import AT_HOME, SHARED


@pytest.mark.parametrize(("num_slots", "found"), [(8, 2.0), (2, 2.0), (1, 3.0)])
def test_a_pack_is_told_of_where_a_sweep_puts_its_slots(num_slots: int, found: float):
    """Also where the other place is faster."""
    packs = {AT_HOME: {"is_faster_by": {"median": 2.0}}, SHARED: {"is_faster_by": {"median": 3.0}}}
    strategies = {"fsdp": {"lengths": {"16": {"packs": packs}}}}
    results = {"num_slots": num_slots, "num_ranks": 2, "goals": {"fsdp": {"16": 2.5}}, "strategies": strategies}
    (goal,) = OF["packing_workers"](results)
    assert (goal.found, goal.is_met) == (found, found > 2.5)
