"""From sources to targets on two workers against one process alone: losses, norms, adapters, bytes."""

from __future__ import annotations

import pytest

from tests.contract.seq2seq_worker import SHARDING, UNDER, WAYS, see_alone
from tests.contract.strategy_group import LATE, Seen, run_group
from tests.unit.train.tiny_seq2seq import save_seq2seq_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"), num_rows=90)
    see_alone(folder)
    last_words = run_group(folder, program="tests.contract.seq2seq_worker", late=LATE)
    return Seen(folder, last_words)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strategy", UNDER)
def test_ten_steps_are_those_of_one_process(seen: Seen, strategy: str, way: str):
    """Dropout draws for the rows of either side, whichever rank they are on and whatever pads them there."""
    together, alone = seen[f"{strategy}-{way}"], seen[f"alone-{way}"]
    assert together["num_tokens"] == alone["num_tokens"]
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert together["eval_before"] == pytest.approx(alone["eval_before"], abs=1e-5)
    assert together["eval_after"] == pytest.approx(alone["eval_after"], abs=1e-5)
    assert together["eval_after"] < together["eval_before"] - 0.1
    assert len(set(together["adapters"])) == 1


@pytest.mark.parametrize("strategy", SHARDING)
@pytest.mark.parametrize("way", WAYS)
def test_each_rank_holds_its_share(seen: Seen, strategy: str, way: str):
    (whole,) = seen[f"alone-{way}"]["held_bytes"]
    assert seen[f"{strategy}-{way}"]["held_bytes"] == pytest.approx([whole / 2] * 2, rel=0.01)
