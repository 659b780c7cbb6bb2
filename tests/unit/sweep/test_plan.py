"""Plans of sweeps on machines that are made up: what fits, where slots live, what runs alone, how long it takes."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig, BloomConfig, OPTConfig, PretrainedConfig, T5Config

from raylora.spec.run import RunSpec
from raylora.sweep.planning.duration import Rows, makespan_s, start_up_s
from raylora.sweep.planning.shares import share_out
from raylora.sweep.planning.width import HELD, KEPT_FREE, PROCESS_BYTES
from raylora.train.prediction.estimate import Estimate, estimate, estimate_pack
from raylora.train.prediction.forecast import StepTime
from raylora.train.prediction.pack_memory import PackMemory
from tests.unit.sweep.planned_sweeps import CONFIG, GRID_OF_8, STEPS, grid, machine, only, place, plan, sweep

RANKS = {"lora_r": {"choice": [4, 8, 16, 32]}}


def offered(memory: Estimate) -> int:
    """What a machine must have free for a worker with so much: the base once, what grows as it is held."""
    (rank,) = memory.ranks
    grown = -(-(rank.peak_bytes - rank.base_bytes) * round(100 * HELD["cpu"]) // 100)
    return -(-(rank.base_bytes + grown + PROCESS_BYTES["cpu"]) * 100 // round(100 * (1 - KEPT_FREE))) + 1


def test_eight_slots_fit() -> None:
    found = only(plan(grid(GRID_OF_8), machine()))
    assert (found.num_trials, found.num_packs, found.width.num_slots) == (8, 1, 8)
    assert found.why_alone is None and found.fits
    assert found.largest.lora_r == 16
    alone = estimate(found.largest, CONFIG, device="cpu").ranks[0]
    assert found.memory.ranks[0].base_bytes == alone.base_bytes
    assert found.memory.ranks[0].adapters_bytes == 8 * alone.adapters_bytes
    assert found.slot.num_bytes == 4 * alone.adapters_bytes


@pytest.mark.parametrize(
    ("kinds", "largest"),
    [
        ([{"use_dora": False}, {"use_dora": True}], {"use_dora": True}),
        ([{"init_lora_weights": True}, {"init_lora_weights": "pissa"}], {"init_lora_weights": "pissa"}),
    ],
)
@pytest.mark.parametrize("is_last", [True, False])
def test_memory_is_planned_for_the_kind_that_holds_most(
    kinds: list[dict[str, Any]], largest: dict[str, Any], is_last: bool
) -> None:
    space = {"_kind": {"choice": kinds if is_last else kinds[::-1]}, "lora_r": {"choice": [4, 8]}}
    found = only(plan(grid(space), machine()))
    assert {name: getattr(found.largest, name) for name in largest} == largest
    others = [found.largest.model_copy(update=kind) for kind in kinds]
    peaks = [estimate(spec, CONFIG, device="cpu").peak_bytes for spec in others]
    assert len(set(peaks)) == 2
    assert estimate(found.largest, CONFIG, device="cpu").peak_bytes == max(peaks)


def test_doras_magnitudes_make_no_narrow_adapter_the_largest() -> None:
    narrow = {"lora_r": 4, "lora_target_modules": ["q_proj"], "use_dora": True}  # 4 x (64 + 64) + 64 values a layer
    wide = {"lora_r": 6, "lora_target_modules": ["k_proj"], "use_dora": False}  # 6 x (32 + 64), more of either kind
    assert only(plan(grid({"_adapter": {"choice": [narrow, wide]}}), machine())).largest.lora_r == 6


def test_memory_for_three_slots_only() -> None:
    asked = grid(GRID_OF_8)
    largest = only(plan(asked, machine())).largest
    memory = PackMemory(largest, lambda specs: estimate_pack(specs, CONFIG, device="cpu"))
    found = only(plan(asked, machine(host_bytes=offered(memory.at(3)))))
    assert (found.num_packs, found.width.num_slots) == (1, 3)
    assert found.width.why_so_many.startswith("4 trials")
    assert found.fits
    short = only(plan(asked, machine(host_bytes=offered(memory.at(1)) - 1000)))
    assert (short.width.num_slots, short.fits) == (1, False)
    assert "may not fit" in short.width.why_so_many


def test_the_sweeps_slots_cap_a_pack() -> None:
    found = only(plan(grid(GRID_OF_8, slots=2), machine()))
    assert (found.width.num_slots, found.width.why_so_many) == (
        2,
        "the sweep sets slots: 2; with slots set, no fewer are tried",
    )


def test_slots_stay_on_two_workers_that_shard_the_base() -> None:
    asked = grid(GRID_OF_8, place(strategy="fsdp", num_workers=2))
    found = only(plan(asked, machine(cores=2)))
    assert (found.num_packs, found.width.num_slots, found.width.slots_per_rank) == (1, 8, 4)
    assert found.width.slots_stay_on_ranks and "no gradient travels" in found.width.why_there
    on_one = found.largest.distributed.model_copy(update={"num_workers": 1})
    whole = estimate(found.largest.model_copy(update={"distributed": on_one}), CONFIG, device="cpu").ranks[0]
    assert all(rank.base_bytes < 0.6 * whole.base_bytes for rank in found.memory.ranks)
    assert found.memory.ranks[0].adapters_bytes == 4 * whole.adapters_bytes


def test_room_for_fewer_workers_than_a_pack_has_is_told() -> None:
    asked = grid(GRID_OF_8, place(num_workers=4))
    assert [only(plan(asked, machine(cores))).num_places for cores in (2, 8)] == [2, 8]


def test_fewer_slots_than_workers_are_on_all_of_them() -> None:
    asked = grid({"lora_r": {"choice": [4, 8]}}, place(num_workers=3))
    found = only(plan(asked, machine(cores=3)))
    assert (found.width.num_slots, found.width.slots_per_rank) == (2, 2)
    assert not found.width.slots_stay_on_ranks and "all-reduce" in found.width.why_there


def test_cores_for_several_packs_share_the_trials() -> None:
    found = only(plan(grid(GRID_OF_8), machine(cores=4)))
    assert (found.num_packs, found.width.num_slots) == (4, 2)
    twice = only(plan(grid(GRID_OF_8, repeats=2), machine(cores=4)))
    assert (twice.num_trials, twice.width.num_slots) == (16, 4)


def test_packs_beside_one_another_are_fewer_where_memory_is_short() -> None:
    asked = grid(GRID_OF_8)
    one = estimate(only(plan(asked, machine())).largest, CONFIG, device="cpu")
    found = only(plan(asked, machine(cores=4, host_bytes=2 * offered(one) + 1000)))
    assert found.num_packs == 2 and found.fits


def test_a_grid_of_two_lengths_makes_two_groups() -> None:
    space = {"sequence_len": {"choice": [16, 32]}, "lora_r": {"choice": [4, 8, 16]}}
    found = plan(grid(space), machine(cores=2))
    assert [(group.largest.sequence_len, group.num_trials) for group in found.groups] == [(16, 3), (32, 3)]
    assert [(group.num_packs, group.width.num_slots) for group in found.groups] == [(1, 3), (1, 3)]
    assert len({group.key for group in found.groups}) == 2
    assert not found.takes_turns and plan(grid(space), machine(cores=1)).takes_turns
    short, long = (group.memory.ranks[0].activations_bytes for group in found.groups)
    assert short < 0.6 * long


def test_what_cannot_be_packed_runs_alone_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    space = {"adapter_bank": {"choice": ["packed", "peft"]}, "lora_r": {"choice": [4, 8]}}
    packed, alone = plan(grid(space, STEPS), machine(cores=2)).groups
    assert (packed.why_alone, packed.width.num_slots) == (None, 2)
    assert alone.why_alone is not None and "adapter_bank: peft" in alone.why_alone
    assert (alone.num_trials, alone.num_packs, alone.width.num_slots) == (2, 1, 1)
    assert alone.duration is not None and packed.duration is not None
    assert alone.duration.start_s == 2 * packed.duration.start_s, "each trial starts workers of its own"


@pytest.mark.parametrize(
    ("config", "target", "why"),
    [
        (BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=64), "query_key_value", "attention of its own"),
        (OPTConfig(hidden_size=32, num_attention_heads=2, ffn_dim=48, vocab_size=64), "q_proj", "dropout: 0.1"),
    ],
    ids=["padded", "dropout"],
)
def test_a_base_that_takes_one_adapters_rows_at_a_time_trains_runs_alone(
    config: PretrainedConfig, target: str, why: str
) -> None:
    found = only(plan(grid(RANKS, {"lora_target_modules": [target]}), machine(), config))
    assert found.why_alone is not None and "base_model" in found.why_alone and why in found.why_alone
    assert found.width.num_slots == 1


def test_an_encoder_as_it_is_published_trains_its_runs_in_one_pack() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=64)
    of_texts = {"task_type": "seq_cls", "labels": ["a", "b"]}
    rows = {"datasets": [{"path": "rows.jsonl", "type": "classification"}], "lora_target_modules": "all-linear"}
    found = only(plan(grid(RANKS, of_texts | rows | STEPS), machine(), config))
    assert (config.hidden_dropout_prob, found.why_alone, found.width.num_slots, found.num_packs) == (0.1, None, 4, 1)
    assert found.duration is not None, found.why_no_duration


def test_a_model_of_two_sides_trains_its_runs_in_one_pack() -> None:
    config = T5Config(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, vocab_size=64, decoder_start_token_id=0)
    of_texts = {"task_type": "seq_2_seq_lm", "datasets": [{"path": "rows.jsonl", "type": "completion"}]}
    found = only(plan(grid(RANKS, of_texts | {"lora_target_modules": "all-linear"} | STEPS), machine(), config))
    assert (config.dropout_rate, found.why_alone, found.width.num_slots, found.num_packs) == (0.1, None, 4, 1)


def test_a_space_that_is_drawn_from_is_planned_for_its_worst() -> None:
    space = {
        "lora_r": {"int": [2, 32]},
        "lora_dropout": {"uniform": [0.0, 0.2]},
        "lora_target_modules": {"choice": [["q_proj"], "all-linear", ["v_proj"]]},
        "micro_batch_size": {"choice": [1, 2, 4]},
        "learning_rate": {"loguniform": [1e-5, 1e-2]},
        "warmup_ratio": {"uniform": [0.0, 0.5], "when": {"micro_batch_size": 2}},
    }
    largest = only(plan(sweep(space, {"micro_batch_size": 4}, num_trials=20), machine())).largest
    assert (largest.lora_r, largest.lora_dropout, largest.micro_batch_size) == (32, 0.2, 4)
    assert largest.lora_target_modules == "all-linear"
    assert largest.rows_per_step == 4


def test_drawn_lengths_share_the_trials_that_are_to_be_expected() -> None:
    found = plan(sweep({"sequence_len": {"choice": [8, 16, 32]}, **RANKS}, num_trials=12), machine(cores=3))
    assert [group.num_trials for group in found.groups] == [4, 4, 4]


def test_time_is_predicted_from_steps_and_trials() -> None:
    rows = Rows(num_rows=40, mean_tokens=10.0, num_validation_rows=4, mean_validation_tokens=10.0)
    asked = grid(GRID_OF_8, STEPS, slots=4)
    found = plan(asked, machine(), rows=rows)
    time = only(found).duration
    assert time is not None and time.num_steps == 6
    assert time.steps_s > 0 and time.evaluations_s > 0 and time.tokens_per_s > 0 and time.speedup > 0
    assert found.predicted_s == pytest.approx(time.seconds)


def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take as long as their tokens say: a second a token forward, two backward."""

    def forecast(spec: RunSpec, config: Any, num_slots: int, num_tokens: int, device: Any) -> StepTime:
        seconds = float(spec.micro_batch_size * num_slots * num_tokens)
        return StepTime(seconds, 2 * seconds, 0.0)

    monkeypatch.setattr("raylora.sweep.planning.duration.forecast", forecast)


@pytest.mark.parametrize("binned", [True, False])
def test_an_evaluation_takes_as_long_as_its_validation_rows_are(binned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    rows = Rows(num_rows=64, mean_tokens=8.0, num_validation_rows=16, mean_validation_tokens=8.0)
    asked = grid(GRID_OF_8, STEPS | {"sample_packing": binned, "micro_batch_size": 2}, report_steps=4)
    time = only(plan(asked, machine(), rows=rows)).duration
    assert time is not None
    # 8 trials, evaluated after the fourth step and after the last, on 16 rows of 8 tokens.
    assert time.evaluations_s == pytest.approx(8 * 2 * 16 * 8)


def test_one_trial_after_the_other_pays_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    rows = Rows(num_rows=64, mean_tokens=8.0, num_validation_rows=16, mean_validation_tokens=8.0)
    time = only(plan(grid(GRID_OF_8, STEPS, report_steps=6), machine(), rows=rows)).duration
    assert time is not None and time.speedup == pytest.approx(1)
    before_the_first_step = 8 * 16 * 8  # seconds: `raylora train` is evaluated there, a trial is not
    assert time.one_by_one_s == pytest.approx(time.seconds + 7 * time.start_s + before_the_first_step)


def test_a_start_is_foreseen_by_the_size_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    found = only(plan(grid(GRID_OF_8, STEPS), machine()))
    assert found.duration is not None
    assert found.duration.start_s == start_up_s(found.memory.base_parameters)
    assert start_up_s(135 * 10**6) == pytest.approx(25, abs=0.1)
    assert start_up_s(7 * 10**9) > 2 * 60


@pytest.mark.parametrize(
    ("run", "fields", "rows", "num_steps"),
    [
        ({"num_epochs": 2}, {}, Rows(40, 10.0), 2 * 10),
        ({"micro_batch_size": 2, "sample_packing": True}, {}, Rows(64, 16.0), 16),
        ({}, {"budget": {"tokens": 400}}, Rows(400, 10.0), 10),
        (STEPS, {"budget": {"steps": 5}}, None, 5),
        (STEPS, {}, None, 6),
        ({}, {"budget": {"tokens": 256}}, None, 2),
    ],
)
def test_steps_of_a_trial(
    run: dict[str, Any],
    fields: dict[str, Any],
    rows: Rows | None,
    num_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_up(monkeypatch)
    time = only(plan(grid(RANKS, {"micro_batch_size": 4} | run, **fields), machine(), rows=rows)).duration
    assert time is not None and time.num_steps == num_steps


def test_epochs_without_counted_rows_have_no_predicted_time() -> None:
    found = plan(grid(RANKS), machine())
    assert found.predicted_s is None
    assert "num_epochs" in (only(found).why_no_duration or "")


def test_packs_are_shared_out_where_trials_wait_most() -> None:
    assert share_out([8, 2], [4, 4]) == [3, 1]
    assert share_out([1, 1], [4, 4]) == [1, 1], "no pack without a trial"
    assert share_out([5, 5, 5], [2, 2, 2]) == [1, 1, 1], "more groups than packs take turns"
    assert share_out([8, 8], [4, 2]) == [2, 1], "packs of two workers take twice the room"


def test_groups_one_after_the_other_take_their_sum() -> None:
    assert makespan_s([(10.0, 0.5), (4.0, 0.5)]) == 10.0
    assert makespan_s([(10.0, 1.0), (4.0, 1.0)]) == 14.0
