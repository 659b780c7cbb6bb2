from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from raylora.errors import SpecError
from raylora.spec.rules.run import RULES
from raylora.spec.run import RunSpec
from tests.unit.spec.specs import LEAST, load_text, problems_of

BROKEN = {
    "load_in_4bit": "load_in_4bit: true\nadapter: full",
    "lora_dropout": "lora_dropout: 0.1\nadapter: full",
    "galore_rank": "optimizer: galore_adamw\ngalore_rank: 8",
    "distributed.strategy": "adapter: full\ndistributed: {strategy: deepspeed, zero_stage: 3}",
    "peft": "peft: {r: 8}",
    "adapter_bank": "adapter_bank: peft\ndistributed: {strategy: deepspeed, zero_stage: 3}",
    "init_lora_weights": "init_lora_weights: pissa\nadapter_bank: peft",
    "use_dora": "use_dora: true\ninit_lora_weights: olora",
    "adapter": "adapter: vera\nuse_dora: true",
    "target_r": "adapter: adalora\ntarget_r: 16",
    "tinit": "adapter: adalora\ntinit: 7\ntfinal: 3\nmax_steps: 10",
    "distributed.zero_stage": "adapter: adalora\ndistributed: {strategy: deepspeed, zero_stage: 2}",
    "loraplus_lr_ratio": "loraplus_lr_ratio: 4\ndistributed: {strategy: deepspeed, zero_stage: 1}",
    "lora_target_modules": "lora_target_modules: '(q_proj'",
    "load_in_8bit": "load_in_4bit: true\nload_in_8bit: true",
    "bnb_4bit_quant_storage": "load_in_4bit: true\nbnb_4bit_quant_storage: uint8\ndistributed: {strategy: fsdp}",
    "distributed.cpu_offload": "distributed: {cpu_offload: true}",
    "distributed.min_workers": "distributed: {min_workers: 3, num_workers: 2}",
    "optimizer": "optimizer: paged_adamw_8bit\ndistributed: {strategy: deepspeed, zero_stage: 2}",
    "rl": "rl: dpo",
    "warmup_steps": "warmup_steps: 10\nwarmup_ratio: 0.1",
    "warmup_ratio": "warmup_ratio: 0.95\nlr_scheduler: warmup_stable_decay",
    "test_datasets": "test_datasets: [{path: a}]\nval_set_size: 0.1",
    "val_set_size": "val_set_size: 1.5",
    "eval_steps": "eval_steps: 10",
    "early_stopping_patience": "early_stopping_patience: 2",
    "chat_template": "chat_template: chatml",
    "excess_length_strategy": "excess_length_strategy: split",
    "labels": "labels: [a, b]",
    "task_type": "task_type: token_cls\nlabels: [a, b]",
}


def test_every_rule_has_a_case_that_breaks_it():
    assert [rule.fields[0] for rule in RULES] == list(BROKEN)
    assert all(rule.sentence.endswith(".") for rule in RULES)


@pytest.mark.parametrize("field", BROKEN)
def test_a_broken_rule_is_reported_at_its_field_with_its_line(tmp_path: Path, field: str):
    (problem,) = problems_of(tmp_path, LEAST + BROKEN[field])
    lines = (LEAST + BROKEN[field]).splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if field.rpartition(".")[2] in text)
    assert problem.startswith(f"line {line}: {field}: ")


@pytest.mark.parametrize(
    "text",
    [
        "load_in_4bit: true\nbnb_4bit_quant_storage: uint8",
        "bnb_4bit_quant_storage: uint8\ndistributed: {strategy: fsdp}",
        "load_in_4bit: true\nbnb_4bit_quant_storage: uint8\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "load_in_4bit: true\nbnb_4bit_quant_storage: bfloat16\ndistributed: {strategy: fsdp}",
        "distributed: {strategy: fsdp, cpu_offload: true}",
        "distributed: {min_workers: 2, num_workers: 2}",
        "distributed: {num_workers: [1, 2]}",
        "adapter_bank: peft\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "adapter_bank: peft\ndistributed: {zero_stage: 3}",
        "optimizer: paged_adamw_8bit\ndistributed: {strategy: deepspeed}",
        "warmup_steps: 0",
        "warmup_ratio: 0.95",
        "val_set_size: 200",
        "eval_steps: 10\nval_set_size: 0.1\nearly_stopping_patience: 2",
        "eval_steps: 10\ntest_datasets: [{path: a}]",
        "lora_target_modules: '.*self_attn\\.(q|v)_proj'",
        "chat_template: '{% for m in messages %}{{ m.content }}{% endfor %}'",
        "chat_template: templates/chat.jinja",
        "sample_packing: true\nexcess_length_strategy: drop",
        "max_steps: 5\nnum_epochs: 3",
        "init_lora_weights: true\nadapter_bank: peft\nuse_dora: true",
        "peft: {peft_type: LOHA, r: 8, target_modules: [q_proj]}\nadapter_bank: peft\nload_in_4bit: true",
        "peft: {peft_type: LOHA}\nlora_r: 16\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "peft: {peft_type: LOHA, module_dropout: 0.1}\ndistributed: {strategy: fsdp}",
        "peft: {peft_type: LOHA, module_dropout: 0}\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "peft: {peft_type: OFT, module_dropout: 0.1}\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "init_lora_weights: gaussian\nuse_dora: true\nuse_rslora: true\nloraplus_lr_ratio: 16",
        "init_lora_weights: pissa_niter_16\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "loraplus_lr_ratio: 1\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "init_lora_weights: olora\nloraplus_lr_ratio: 2\ndistributed: {strategy: deepspeed, zero_stage: 3}",
        "init_lora_weights: loftq\nload_in_4bit: true\nuse_rslora: true",
        "init_lora_weights: loftq\nload_in_8bit: true\ndistributed: {strategy: fsdp}",
        "init_lora_weights: eva\nuse_dora: true",
        "init_lora_weights: eva\nload_in_4bit: true\nloraplus_lr_ratio: 4\ndistributed: {zero_stage: 3}",
        "adapter: adalora\ndistributed: {strategy: deepspeed, zero_stage: 3}\nmax_steps: 2",
        "adapter: adalora\ntarget_r: 15\ntinit: 6\ntfinal: 3\nmax_steps: 10",
        "adapter: adalora\ntinit: 700",
        "target_r: 16\ntinit: 10\nmax_steps: 10\ndistributed: {strategy: deepspeed, zero_stage: 2}",
        "adapter: full\nlora_r: 8\ndistributed: {strategy: fsdp}",
        "adapter: full\noptimizer: galore_adamw\ngalore_rank: 8",
        "adapter: full\ndistributed: {strategy: deepspeed, zero_stage: 2}",
    ],
)
def test_what_fits_together_is_taken(tmp_path: Path, text: str):
    assert load_text(tmp_path, LEAST + text)


@pytest.mark.parametrize("pattern", ["((a{99}){99}){99}", "q" * 1001], ids=["repeats", "long"])
def test_a_pattern_that_would_take_long_to_get_ready_is_refused_in_few_words(tmp_path: Path, pattern: str):
    (problem,) = problems_of(tmp_path, LEAST + f"lora_target_modules: '{pattern}'")
    assert "which is no regular expression that can be used" in problem
    assert len(problem) < 400


def test_fewest_and_most_workers_in_one_list(tmp_path: Path):
    place = load_text(tmp_path, LEAST + "distributed: {num_workers: [1, 4]}").spec.distributed
    assert (place.min_workers, place.num_workers) == (1, 4)
    overridden = load_text(tmp_path, LEAST, ["distributed.num_workers=[2, 3]"]).spec.distributed
    assert (overridden.min_workers, overridden.num_workers) == (2, 3)


@pytest.mark.parametrize("asked", ["[2]", "[1, 2, 3]", "[]", "[3, 2]", "[0, 2]", "[a, 2]"])
def test_other_lists_are_refused(tmp_path: Path, asked: str):
    problems = problems_of(tmp_path, LEAST + f"distributed: {{num_workers: {asked}}}")
    assert all("workers" in problem for problem in problems)


@pytest.mark.parametrize("start", ["false", "corda", "pissa_niter_0", "pissa_niter_", "Gaussian", "eva_4"])
def test_a_start_that_is_none_names_those_there_are(tmp_path: Path, start: str):
    (problem,) = problems_of(tmp_path, f"{LEAST}init_lora_weights: {start}")
    assert "allowed: true, gaussian, eva, loftq, olora, pissa or, for 16 iterations, pissa_niter_16" in problem


@pytest.mark.parametrize("start", ["eva", "loftq\nload_in_4bit: true", "olora"])
def test_pefts_bank_has_no_start_that_takes_more_than_the_adapter(tmp_path: Path, start: str):
    (problem,) = problems_of(tmp_path, f"{LEAST}adapter_bank: peft\ninit_lora_weights: {start}")
    assert f"got {start.splitlines()[0]} with adapter_bank: peft" in problem
    assert "use adapter_bank: packed" in problem


def test_loftq_needs_a_base_that_is_quantized(tmp_path: Path):
    (problem,) = problems_of(tmp_path, f"{LEAST}init_lora_weights: loftq")
    assert "init_lora_weights: got loftq" in problem
    assert "set load_in_4bit: true or load_in_8bit: true" in problem


def test_dora_starts_as_the_base(tmp_path: Path):
    (problem,) = problems_of(tmp_path, f"{LEAST}use_dora: true\nload_in_4bit: true\ninit_lora_weights: loftq")
    assert "use_dora: got true with init_lora_weights: loftq" in problem


@pytest.mark.parametrize("start", ["eva", "loftq\nload_in_4bit: true"])
def test_vera_starts_from_its_key(tmp_path: Path, start: str):
    (problem,) = problems_of(tmp_path, f"{LEAST}adapter: vera\ninit_lora_weights: {start}")
    assert f"got vera with init_lora_weights: '{start.splitlines()[0]}'" in problem


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("use_dora: true", "got adalora with use_dora: true"),
        ("use_rslora: true", "got adalora with use_rslora: true"),
        ("loraplus_lr_ratio: 4", "got adalora with loraplus_lr_ratio: 4"),
        ("init_lora_weights: gaussian", "got adalora with init_lora_weights: 'gaussian'"),
        ("adapter_bank: peft", "got adalora with adapter_bank: peft"),
        ("tinit: 0\ntfinal: 0\nmax_steps: 1", "got 0 and tfinal: 0, which leave no step of 1"),
        ("tfinal: 9\nmax_steps: 10", "at least 2 steps before the last 9"),
        ("target_r: 17", "got 17 with lora_r: 16"),
    ],
)
def test_adalora_says_what_it_does_not_go_with(tmp_path: Path, variant: str, said: str):
    (problem,) = problems_of(tmp_path, f"{LEAST}adapter: adalora\n{variant}")
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("peft: {}", "peft_type: got none; allowed: a type of PEFT's"),
        ("peft: {peft_type: 3}", "peft_type: got 3"),
        ("peft: {peft_type: LOHA}\nlora_r: 8\nuse_dora: true", "got lora_r: 8, use_dora: true beside it"),
        ("peft: {peft_type: LOHA}\nlora_target_modules: [q_proj]", "got lora_target_modules: ['q_proj'] beside it"),
        ("peft: {peft_type: LOHA}\nadapter: full", "got adapter: 'full' beside it"),
        ("peft: {peft_type: LOHA}\nloraplus_lr_ratio: 4", "got loraplus_lr_ratio: 4.0 beside it"),
        ("peft: {peft_type: LOHA}\ndistributed: {strategy: deepspeed, zero_stage: 3}", "use strategy: fsdp or ddp"),
        (
            "peft: {peft_type: LOKR, module_dropout: 0.1}\ndistributed: {strategy: deepspeed, zero_stage: 1}",
            "got module_dropout: 0.1, which leaves other layers out on each worker, while deepspeed stage 1",
        ),
    ],
)
def test_a_block_of_pefts_says_what_it_does_not_go_with(tmp_path: Path, text: str, said: str):
    (problem,) = problems_of(tmp_path, LEAST + text)
    assert problem.partition(": ")[2].startswith("peft: ")
    assert said in problem


def test_a_block_of_pefts_is_told_all_that_is_wrong_with_it(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + "lora_alpha: 8\npeft: {r: 8}")
    assert "peft_type: got none" in problem
    assert "got lora_alpha: 8.0 beside it" in problem


def test_what_is_no_block_is_refused(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + "peft: LOHA")
    assert "peft: got 'LOHA'; allowed: names, each with a value" in problem


def test_fields_of_a_block_are_set_one_by_one(tmp_path: Path):
    text = LEAST + "peft: {peft_type: LOHA, r: 8, alpha: 16, target_modules: [q_proj]}"
    found = load_text(tmp_path, text, ["peft.r=4", "peft.target_modules=[k_proj, v_proj]"]).spec
    assert found.peft == {"peft_type": "LOHA", "r": 4, "alpha": 16, "target_modules": ["k_proj", "v_proj"]}
    assert found.digest != load_text(tmp_path, text).spec.digest


def test_early_stopping_says_all_it_lacks(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + "early_stopping_patience: 2")
    assert "set validation rows (val_set_size or test_datasets) and eval_steps" in problem


@pytest.mark.parametrize("place", ["strategy: fsdp", "strategy: deepspeed, zero_stage: 3"])
@pytest.mark.parametrize("quantization", ["load_in_4bit", "load_in_8bit"])
def test_uint8_is_refused_for_whatever_is_quantized_and_sharded(tmp_path: Path, quantization: str, place: str):
    text = f"{quantization}: true\nbnb_4bit_quant_storage: uint8\ndistributed: {{{place}}}"
    (problem,) = problems_of(tmp_path, LEAST + text)
    assert "uint8 cannot be sharded" in problem


def test_uint8_says_why_and_what_to_do(tmp_path: Path):
    (problem,) = problems_of(tmp_path, LEAST + BROKEN["bnb_4bit_quant_storage"])
    assert "accelerate#3983" in problem
    assert "loss of 0 or NaN" in problem
    assert "remove the line" in problem


def test_a_rule_over_a_wrong_field_is_not_asked(tmp_path: Path):
    text = LEAST + "optimizer: paged_adamw_8bit\ndistributed: {strategy: deepspeed, zero_stage: 4}"
    (problem,) = problems_of(tmp_path, text)
    assert "zero_stage: got 4" in problem


def test_a_rule_is_asked_beside_wrong_and_missing_fields(tmp_path: Path):
    said = problems_of(tmp_path, "lora_r: 0\nwarmup_steps: 1\nwarmup_ratio: 0.1\n")
    assert [line.split(":")[-3 if "missing" in line else 1] for line in said if "warmup" in line] == [" warmup_steps"]
    assert len(said) == 4


def test_a_run_made_in_python_is_held_to_the_rules():
    fields = {"base_model": "a", "datasets": [{"path": "b"}], "load_in_4bit": True, "load_in_8bit": True}
    with pytest.raises(SpecError, match="both load_in_8bit and load_in_4bit"):
        RunSpec.model_validate(fields)


def test_a_spec_error_survives_the_way_between_processes(tmp_path: Path):
    with pytest.raises(SpecError) as caught:
        load_text(tmp_path, LEAST + "lora_r: 0")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("rl", "kind", "said"),
    [
        (None, "unpaired_preference", "hold answers that are desirable or not; set rl: kto, or another type"),
        (None, "preference", "hold pairs of answers; set rl: dpo, ipo, orpo or reward, or another type"),
        ("kto", "preference", "got kto, which learns from datasets of type unpaired_preference; got type preference"),
        ("kto", "chat", "got kto, which learns from datasets of type unpaired_preference; got type chat"),
        ("dpo", "unpaired_preference", "got dpo, which learns from datasets of type preference; got type unpaired"),
    ],
)
def test_what_is_learned_goes_with_the_rows(rl: str | None, kind: str, said: str):
    with pytest.raises(SpecError, match=said):
        RunSpec.model_validate({"base_model": "a", "datasets": [{"path": "b", "type": kind}], "rl": rl})


@pytest.mark.parametrize(("rl", "kind"), [("dpo", "preference"), ("ipo", "preference"), ("kto", "unpaired_preference")])
def test_prompts_are_learned_beside_judged_answers_under_orpo_alone(rl: str, kind: str):
    judged = {"base_model": "a", "datasets": [{"path": "b", "type": kind}], "rl": rl, "train_on_inputs": True}
    with pytest.raises(SpecError, match=f"got {rl} with train_on_inputs: true, but answers are compared without"):
        RunSpec.model_validate(judged)
    orpo = RunSpec.model_validate(judged | {"rl": "orpo", "datasets": [{"path": "b", "type": "preference"}]})
    assert orpo.train_on_inputs and orpo.joins_texts
    assert RunSpec.model_validate(judged | {"train_on_inputs": False}).joins_texts == (rl != "kto")


@pytest.mark.parametrize(("rl", "kind"), [("dpo", "preference"), ("ipo", "preference"), ("kto", "unpaired_preference")])
def test_a_base_that_trains_leaves_no_reference(rl: str, kind: str):
    judged = {"base_model": "a", "datasets": [{"path": "b", "type": kind}], "rl": rl}
    assert not RunSpec.model_validate(judged).trains_base
    with pytest.raises(SpecError, match=f"got {rl} with adapter: full"):
        RunSpec.model_validate(judged | {"adapter": "full"})


def test_a_base_that_trains_learns_where_no_reference_is_asked():
    pairs = {"base_model": "a", "datasets": [{"path": "b", "type": "preference"}], "rl": "orpo"}
    assert RunSpec.model_validate(pairs | {"adapter": "full"}).trains_base
