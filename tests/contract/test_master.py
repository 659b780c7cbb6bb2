"""Weights in bfloat16 under ZeRO-1 and ZeRO-2: the float32 copy that the engine steps is kept with the moments."""

from __future__ import annotations

import pytest

from tests.contract.strategy_group import Seen, run_group

STAGES = ["zero1", "zero2"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("master")
    return Seen(folder, run_group(folder, program="tests.contract.master_worker"))


@pytest.mark.parametrize("stage", STAGES)
def test_updates_too_small_for_bfloat16_go_on_bit_for_bit(seen: Seen, stage: str):
    assert seen[stage]["whole"] != seen[stage]["half"], "the updates add up to what bfloat16 can tell"
    assert seen[stage]["resumed"] == seen[stage]["whole"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("under", ["under_ddp", "under_fsdp"])
def test_a_run_goes_on_where_there_is_no_such_copy(seen: Seen, stage: str, under: str):
    """By the engine's moments; and there each update is rounded off by itself."""
    assert seen[stage][under] == seen[stage]["half"]
