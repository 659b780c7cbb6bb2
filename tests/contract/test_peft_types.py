"""Each type of PEFT's on two workers against one process: losses, one adapter on all ranks, the base as it was."""

from __future__ import annotations

import pytest

from tests.contract.peft_worker import CASES, UNDER, see_alone
from tests.contract.strategy_group import LATE, Seen, run_group
from tests.unit.train.tiny_run import save_base, write_chats

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("types")
    save_base(folder / "base", num_hidden_layers=2)
    write_chats(folder / "rows.jsonl", 60)
    see_alone(folder)
    return Seen(folder, run_group(folder, program="tests.contract.peft_worker", late=LATE))


@pytest.mark.parametrize(("strategy", "kind"), CASES)
def test_a_type_of_pefts_is_trained_as_in_one_process(seen: Seen, strategy: str, kind: str):
    together, alone = seen[f"{strategy}-{kind}"], seen[f"alone-{kind}"]
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert together["num_adapters"] == 1
    assert together["again"] == together["losses"], "in the slot that it has left"
    assert together["base"] == alone["base"]


@pytest.mark.parametrize("strategy", UNDER)
def test_noise_follows_from_the_seed_and_the_worker(seen: Seen, strategy: str):
    """As PVERA draws it: other noise than one process, the same under every strategy, and one adapter still."""
    together = seen[f"{strategy}-noise"]
    assert together["losses"] == pytest.approx(seen["ddp-noise"]["losses"], abs=1e-4)
    assert together["losses"] != pytest.approx(seen["alone-noise"]["losses"], abs=1e-4)
    assert together["num_adapters"] == 1


def test_noise_is_the_same_where_activations_are_computed_again(seen: Seen):
    assert seen["alone-noise-recomputed"] == seen["alone-noise"]
