"""Packs on two workers against each member alone in one process: shared slots to rounding, those at home by the bit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.pack_worker import ALONE, ALONE_ON_TWO, UNDER, see_alone
from tests.contract.strategy_group import run_group
from tests.unit.train.tiny_run import save_materials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Seen = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = save_materials(tmp_path_factory.mktemp("packs"), 60)
    see_alone(folder)
    last_words = run_group(folder, program="tests.contract.pack_worker")
    found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    errors = [value["error"] for value in found.values() if isinstance(value, dict)]
    assert len(found) == 2 + 4 * len(UNDER), last_words
    assert not errors, errors[0]
    return found


@pytest.mark.parametrize("ending", ["", "-recomputed"])
@pytest.mark.parametrize("strategy", UNDER)
def test_slots_that_all_ranks_share(seen: Seen, strategy: str, ending: str):
    for together, alone in zip(seen[f"{strategy}-shared{ending}"], seen[ALONE_ON_TWO], strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], abs=1e-5)


def test_two_workers_are_one_process(seen: Seen):
    """Dropout included: a row's mask is its own, whichever rank has the row."""
    for two, one in zip(seen[ALONE_ON_TWO], seen[ALONE], strict=True):
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)


@pytest.mark.parametrize("ending", ["", "-recomputed"])
@pytest.mark.parametrize("strategy", UNDER)
def test_slots_at_home_on_a_rank(seen: Seen, strategy: str, ending: str):
    """Nothing of theirs is summed over ranks, so they are what one process makes of them.

    ZeRO-3 gathers weights to other addresses, at which kernels sum in another order.
    """
    for together, alone in zip(seen[f"{strategy}-at-home{ending}"], seen[ALONE], strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert together == alone or strategy == "zero3"


def test_members_differ(seen: Seen):
    assert len({found["digest"] for found in seen[ALONE]}) == len(seen[ALONE])
