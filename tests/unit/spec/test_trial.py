"""The run of one trial: fair beside every other."""

from __future__ import annotations

from typing import Any

import pytest

from raylora.errors import SpecError
from raylora.spec.packing import pack_key, why_alone
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec

RUN = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}], "val_set_size": 0.1, "seed": 7}
BATCHES = {"micro_batch_size": 2, "gradient_accumulation_steps": 6, "distributed": {"num_workers": 2}}


def sweep(space: dict[str, Any], run: dict[str, Any] | None = None, **fields: Any) -> SweepSpec:
    values = {"run": RUN | (run or {}), "space": space, "num_trials": 4} | fields
    return SweepSpec.model_validate(values)


def test_a_trial_is_the_run_with_the_drawn_fields():
    asked = sweep({"lora_r": {"choice": [4, 8]}, "lora_alpha": {"ratio": 2, "of": "lora_r"}}, report_steps=3)
    trial = trial_spec(asked, {"lora_r": 8})
    fields = {"lora_r": 8, "lora_alpha": 16.0, "eval_steps": 3}
    assert trial == RunSpec.model_validate(RUN | fields)


def test_repeats_change_the_seed_and_keep_the_validation_rows():
    asked = sweep({"lora_r": {"choice": [4, 8]}}, repeats=3)
    trials = [trial_spec(asked, {"lora_r": 4}, repeat) for repeat in range(3)]
    assert [trial.seed for trial in trials] == [7, 8, 9]
    assert {trial.seed_of_split for trial in trials} == {7}
    assert len({trial.digest for trial in trials}) == 3
    assert trials[1].seed == trial_spec(asked, {"lora_r": 8}, 1).seed, "the same rows in the same order"


def test_a_knob_of_seeds_keeps_the_validation_rows():
    asked = sweep({"seed": {"choice": [1, 2]}}, {"split_seed": 5})
    assert {(trial.seed, trial.seed_of_split) for trial in (trial_spec(asked, {"seed": seed}) for seed in (1, 2))} == {
        (1, 5),
        (2, 5),
    }


def test_the_last_seed_is_followed_by_the_first():
    asked = sweep({"lora_r": {"choice": [4]}}, {"seed": 2**32 - 1}, repeats=2)
    assert trial_spec(asked, {"lora_r": 4}, 1).seed == 0


@pytest.mark.parametrize(
    ("budget", "drawn", "steps"),
    [({"steps": 20}, None, 20), ({"steps": 20}, 10, 10), ({"steps": 20}, 50, 20), (None, 50, 50), (None, None, 16)],
)
def test_a_budget_in_steps_is_the_trials_length(budget: dict[str, int] | None, drawn: int | None, steps: int):
    knob = {"lora_r": {"choice": [4]}} if drawn is None else {"max_steps": {"choice": [10, 50]}}
    asked = sweep(knob, {"max_steps": 16}, budget=budget)
    assert trial_spec(asked, {"lora_r": 4} if drawn is None else {"max_steps": drawn}).max_steps == steps


def test_a_budget_in_tokens_leaves_the_steps():
    asked = sweep({"lora_r": {"choice": [4]}}, {"max_steps": 16}, budget={"tokens": 1000})
    assert trial_spec(asked, {"lora_r": 4}).max_steps == 16
    assert (asked.time_attr, asked.max_t) == ("tokens", 1000)


@pytest.mark.parametrize(
    ("name", "value", "accumulation"),
    [("micro_batch_size", 4, 3), ("micro_batch_size", 4.0, 3), ("distributed.num_workers", 1, 12)],
)
def test_a_step_takes_as_many_rows_whatever_the_batch(name: str, value: float, accumulation: int):
    trial = trial_spec(sweep({name: {"choice": [value]}}, BATCHES), {name: value})
    assert (trial.gradient_accumulation_steps, trial.rows_per_step) == (accumulation, 24)


def test_the_rows_of_a_step_vary_where_accumulation_is_a_knob():
    both = {"micro_batch_size": 4, "gradient_accumulation_steps": 1}
    trial = trial_spec(sweep({"_batch": {"choice": [both]}}, BATCHES), {"_batch": both})
    assert trial.rows_per_step == 8


def test_a_batch_that_does_not_divide_a_step_is_told_before():
    with pytest.raises(
        SpecError,
        match=r"choice\.1: micro_batch_size: 5 on num_workers: 2 does not divide the rows of the run's steps, 24",
    ):
        sweep({"micro_batch_size": {"choice": [4, 5]}}, BATCHES)


def test_a_null_is_the_fields_default():
    asked = sweep({"warmup_steps": {"choice": [None, 3]}}, {"warmup_steps": 2})
    assert [trial_spec(asked, {"warmup_steps": drawn}).warmup_steps for drawn in (None, 3)] == [None, 3]


def test_a_trial_without_validation_rows_does_not_evaluate():
    asked = sweep({"lora_r": {"choice": [4]}}, {"val_set_size": 0}, metric="train_loss")
    assert trial_spec(asked, {"lora_r": 4}).eval_steps is None


def test_a_number_beyond_what_was_asked_that_makes_no_run_is_told():
    with pytest.raises(SpecError, match=r"lora_dropout: got 1\.2; allowed"):
        trial_spec(sweep({"lora_dropout": {"uniform": [0, 0.5]}}), {"lora_dropout": 1.2})


def run(**fields: Any) -> RunSpec:
    return RunSpec.model_validate(RUN | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_r": 4, "lora_alpha": 3, "lora_target_modules": ["q_proj"], "learning_rate": 1, "seed": 1},
        {"micro_batch_size": 4, "datasets": [{"path": "other"}], "max_steps": 3, "lr_scheduler": "linear"},
        {"bnb_4bit_quant_type": "fp4", "storage": {"uri": "other"}, "run_name": "other"},
    ],
)
def test_what_is_a_slots_own_shares_a_pack(fields: dict[str, Any]):
    assert pack_key(run(**fields)) == pack_key(run())
    assert why_alone(run(**fields)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"base_model": "other"},
        {"base_model_revision": "main"},
        {"load_in_4bit": True},
        {"load_in_8bit": True},
        {"dtype": "bfloat16"},
        {"gradient_checkpointing": True},
        {"sequence_len": 8},
        {"chat_template": "{{ messages }}"},
        {"distributed": {"num_workers": 2}},
        {"distributed": {"strategy": "fsdp"}},
        {"ray": {"address": "auto"}},
    ],
)
def test_what_the_base_and_its_workers_are_parts_packs(fields: dict[str, Any]):
    assert pack_key(run(**fields)) != pack_key(run())


@pytest.mark.parametrize("name", ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"])
def test_the_code_of_a_quantized_base_parts_packs(name: str):
    other = {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "float32"}
    assert pack_key(run(load_in_4bit=True, **{name: other[name]})) != pack_key(run(load_in_4bit=True))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"adapter_bank": "peft"}, "adapter_bank: peft holds one adapter"),
        ({"peft": {"peft_type": "LOHA"}}, "peft holds one adapter"),
        ({"optimizer": "paged_adamw_8bit"}, "optimizer: paged_adamw_8bit steps one adapter"),
        ({"distributed": {"strategy": "deepspeed", "zero_stage": 2}}, "deepspeed stage 2"),
        ({"distributed": {"strategy": "deepspeed", "zero_stage": 3}}, None),
        ({"distributed": {"strategy": "fsdp", "zero_stage": 1}}, None),
    ],
)
def test_what_cannot_be_packed_says_why(fields: dict[str, Any], words: str | None):
    why = why_alone(run(**fields))
    assert why is None if words is None else why is not None and why.startswith(words)
