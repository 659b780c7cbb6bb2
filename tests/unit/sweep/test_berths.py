"""What each kind of pack is to be, by a plan for a machine that is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig

from raylora.errors import InputError
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.planning.berths import Berth, Berths
from raylora.sweep.steering.trials import SweepTrials
from tests.unit.sweep.made_berths import CONFIG, RUN, SPACE, planned


def berth_of(berths: Berths, run: RunSpec) -> Berth:
    berths.note(run)
    (berth,) = berths.by_key.values()
    return berth


def test_a_berth_is_as_wide_as_planned_and_as_large_as_its_largest_run() -> None:
    spec, berths = planned(2)
    berth = berth_of(berths, spec.run.model_copy(update={"lora_r": 2}))
    assert (berth.num_slots, berth.slots_stay_on_ranks, berth.calibrates) == (4, True, True)
    assert berth.spec.lora_r == 16
    assert berths.num_at_once == 4
    assert [run.lora_r for run in berth.likely] == [2, 4, 8, 16]


def test_slots_stay_on_ranks_as_planned_where_whole_trials_leave_a_rank_without_one() -> None:
    """Four slots of a rank each were planned for; all three repeats on every rank may not fit."""
    spec, berths = planned(4, repeats=3, slots=4)
    berth = berth_of(berths, spec.run)
    assert (berth.num_slots, berth.slots_stay_on_ranks, berth.calibrates) == (3, True, False)


def test_a_base_for_one_adapter_has_a_berth_of_one_slot() -> None:
    drops = LlamaConfig(**CONFIG.to_diff_dict() | {"attention_dropout": 0.1})
    spec, berths = planned(2, drops)
    berth = berth_of(berths, spec.run)
    assert (berth.num_slots, berth.slots_stay_on_ranks, berths.num_at_once) == (1, False, 1)


def test_repeats_are_measured_in_whole_trials() -> None:
    spec, berths = planned(1, repeats=3, slots=None)
    berth = berth_of(berths, spec.run)
    assert (berth.num_slots, berth.calibrates, berth.repeats) == (12, True, 3)
    assert [run.lora_r for run in berth.likely] == [2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16]


def test_what_is_likely_is_of_the_packs_own_kind_and_as_unlike_as_draws_are() -> None:
    space = {"sequence_len": {"choice": [64, 128]}, "lora_dropout": {"uniform": [0.0, 0.2]}}
    spec, berths = planned(1, space=space, searcher="random", num_trials=8)
    for length in (64, 128):
        berths.note(spec.run.model_copy(update={"sequence_len": length}))
    for length, berth in zip((64, 128), berths.by_key.values(), strict=True):
        assert {run.sequence_len for run in berth.likely} == {length}
        assert len({run.lora_dropout for run in berth.likely}) == len(berth.likely) == berth.num_slots == 4


def test_a_run_that_nobody_foresaw_gets_a_berth_of_its_own_size() -> None:
    spec, berths = planned(2)
    berth = berth_of(berths, spec.run.model_copy(update={"sequence_len": 64}))
    assert (berth.num_slots, berth.slots_stay_on_ranks, berth.spec.sequence_len) == (4, True, 64)
    assert berth.num_packs == 1


def test_runs_that_share_with_nobody_are_of_one_family_with_the_packs_that_were_planned_for_it() -> None:
    space = SPACE | {"adapter_bank": {"choice": ["packed", "peft"]}}
    spec, berths = planned(1, num_cores=4, space=space)
    for rank in (2, 4):
        berths.note(spec.run.model_copy(update={"lora_r": rank, "adapter_bank": "peft"}))
    berths.note(spec.run)
    first, second, packed = berths.by_key.values()
    assert (first.spec.lora_r, second.spec.lora_r) == (2, 4)
    assert first.family == second.family != packed.family
    assert (first.num_packs, second.num_packs, packed.num_packs) == (2, 2, 2)
    assert (first.num_slots, packed.num_slots, berths.num_at_once) == (1, 2, 6)


def test_repeats_without_room_side_by_side_are_an_error() -> None:
    with pytest.raises(InputError, match=r"repeats: the 3 runs of a trial train side by side.* room for 2"):
        planned(1, repeats=3, slots=2)


@pytest.mark.parametrize("knob", [{"choice": [1, 4]}, {"int": [1, 4]}], ids=["a choice", "the end of a range"])
def test_workers_that_the_cluster_cannot_hold_are_an_error(
    monkeypatch: pytest.MonkeyPatch, knob: dict[str, Any]
) -> None:
    """Their leases would wait for ever."""
    nodes = [{"NodeID": "n", "Alive": True, "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr("raylora.runtime.cluster.cluster.ray", SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr("raylora.runtime.cluster.cluster.can_grow", lambda: False)
    monkeypatch.setattr("raylora.sweep.planning.probe.ray", SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr("raylora.model.source.source.base_config", lambda run: CONFIG)
    place = {"num_workers": 1, "gpus_per_worker": 0}
    asked = {"run": RUN | {"distributed": place, "gradient_accumulation_steps": 12}, "num_trials": 4}
    asked |= {"space": {"distributed.num_workers": knob}, "metric": "train_loss", "budget": {"steps": 20}}
    spec = SweepSpec.model_validate(asked)
    with pytest.raises(InputError, match=r"distributed\.num_workers: 4 workers of .* asked, .* can hold 2;"):
        Berths(spec, SweepTrials(spec, "sweep"), 128).plan()
