"""A recorded run on other workers: what it computes stays, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from raylora.errors import SpecError
from raylora.spec.reading.elsewhere import elsewhere
from raylora.spec.run import RunSpec


def recorded(**place: Any) -> dict[str, Any]:
    fields = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}], "micro_batch_size": 2}
    return RunSpec.model_validate(
        fields | {"gradient_accumulation_steps": 3, "distributed": {"num_workers": 4} | place}
    ).model_dump(mode="json")


def test_without_a_word_it_is_the_recorded_run():
    assert elsewhere(recorded(), ()).model_dump(mode="json") == recorded()


@pytest.mark.parametrize(("num_workers", "accumulation"), [(1, 12), (2, 6), (3, 4), (6, 2), (12, 1)])
def test_accumulation_makes_up_for_other_workers(num_workers: int, accumulation: int):
    spec = elsewhere(recorded(), [f"distributed.num_workers={num_workers}"])
    assert (spec.distributed.num_workers, spec.gradient_accumulation_steps) == (num_workers, accumulation)
    assert spec.rows_per_step == RunSpec.model_validate(recorded()).rows_per_step
    assert spec.lasting_digest() == RunSpec.model_validate(recorded()).lasting_digest()


def test_strategy_and_cluster_may_change():
    spec = elsewhere(recorded(), ["distributed.strategy=fsdp", "ray.address=auto"])
    assert (spec.distributed.strategy, spec.ray.address) == ("fsdp", "auto")
    assert spec.lasting_digest() == RunSpec.model_validate(recorded()).lasting_digest()


def test_workers_that_cannot_share_a_step_are_told_which_can():
    with pytest.raises(
        SpecError, match=r"num_workers: got 5; .* takes 24 rows, 2 at once .* allowed: 1, 2, 3, 4, 6, 12"
    ):
        elsewhere(recorded(), ["distributed.num_workers=5"])


def test_what_changes_the_training_is_refused_all_at_once():
    with pytest.raises(SpecError) as caught:
        elsewhere(recorded(), ["lora_r=8", "learning_rate=1", "distributed.num_workers=0"])
    assert {problem.field for problem in caught.value.problems} == {
        "lora_r",
        "learning_rate",
        "distributed.num_workers",
    }
    assert "start a new run" in str(caught.value)
