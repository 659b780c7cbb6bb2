from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raylora.spec.fields.run import RunFields
from raylora.spec.run import NOT_DIGESTED, RunSpec
from tests.unit.spec.specs import LEAST, load_text

BASE: dict[str, Any] = {"base_model": "a", "datasets": [{"path": "b"}], "val_set_size": 0.1, "eval_steps": 10}

# Another value for every field; a new field fails the test below until its place in the digest is decided.
OTHER: dict[str, Any] = {
    "base_model": "c",
    "base_model_revision": "main",
    "load_in_4bit": True,
    "load_in_8bit": True,
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_quant_storage": "bfloat16",
    "dtype": "float32",
    "gradient_checkpointing": True,
    "adapter": "vera",
    "adapter_bank": "peft",
    "lora_r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "use_dora": True,
    "loraplus_lr_ratio": 4,
    "init_lora_weights": "pissa",
    "projection_prng_key": 1,
    "d_initial": 0.2,
    "target_r": 4,
    "tinit": 1,
    "tfinal": 1,
    "deltaT": 2,
    "orth_reg_weight": 0.1,
    "lora_target_modules": ["q_proj"],
    "peft": {"peft_type": "LOHA", "r": 8},
    "datasets": [{"path": "b", "weight": 2}],
    "test_datasets": [],
    "val_set_size": 0.2,
    "split_seed": 1,
    "sequence_len": 512,
    "excess_length_strategy": "drop",
    "sample_packing": True,
    "train_on_inputs": True,
    "chat_template": "{{ messages }}",
    "dataset_num_proc": 2,
    "rl_beta": 0.2,
    "kto_desirable_weight": 2,
    "kto_undesirable_weight": 2,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_epochs": 2,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler": "linear",
    "warmup_steps": 2,
    "warmup_ratio": 0.1,
    "decay_ratio": 0.2,
    "optimizer": "adamw_bnb_8bit",
    "galore_rank": 64,
    "galore_update_proj_gap": 100,
    "galore_scale": 1.0,
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-6,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "seed": 1,
    "logging_steps": 2,
    "eval_steps": 20,
    "early_stopping_patience": 2,
    "save_steps": 2,
    "sample_prompts": ["hi"],
    "sample_max_new_tokens": 8,
    "run_name": "other",
    "distributed": {"num_workers": 2},
    "ray": {"address": "host:6379"},
    "tracking": {"experiment": "other"},
    "storage": {"uri": "other"},
}
NO_OTHER = {"rl", "task_type", "labels"}


def digest(**fields: Any) -> str:
    return RunSpec.model_validate(BASE | fields).digest


def lasting(*mutable: str, **fields: Any) -> str:
    return RunSpec.model_validate(BASE | fields).lasting_digest(mutable)


def test_every_field_has_its_place():
    assert set(OTHER) | NO_OTHER == set(RunFields.model_fields)


@pytest.mark.parametrize("field", sorted(set(OTHER) - NOT_DIGESTED - {"test_datasets"}))
def test_a_field_that_decides_the_result_changes_the_digest(field: str):
    assert digest(**{field: OTHER[field]}) != digest()
    assert lasting(**{field: OTHER[field]}) != lasting()


def test_what_is_learned_from_pairs_changes_the_digest():
    pairs = {"datasets": [{"path": "c", "type": "preference"}]}
    rated = {"datasets": [{"path": "c", "type": "unpaired_preference"}]}
    assert len({digest(**rated, rl="kto"), *(digest(**pairs, rl=kind) for kind in ("dpo", "ipo", "orpo"))}) == 4


def test_the_task_and_its_classes_change_the_digest():
    texts = {"datasets": [{"path": "c", "type": "classification"}], "task_type": "seq_cls"}
    words = {"datasets": [{"path": "c", "type": "tags"}], "task_type": "token_cls"}
    images = {"datasets": [{"path": "c", "type": "image"}], "task_type": "image_cls"}
    sounds = {"datasets": [{"path": "c", "type": "audio"}], "task_type": "audio_cls"}
    tasks = (texts, words, images, sounds)
    of = [digest(**task, labels=labels) for task in tasks for labels in (["a", "b"], ["b", "a"])]
    sources = {"datasets": [{"path": "c", "type": "completion"}]}
    of += [digest(**sources), digest(**sources, task_type="seq_2_seq_lm")]
    assert len(set(of)) == 10


def test_validation_rows_change_the_digest():
    assert digest(val_set_size=0, test_datasets=[{"path": "c"}]) != digest(
        val_set_size=0, test_datasets=[{"path": "d"}]
    )


@pytest.mark.parametrize("field", sorted(NOT_DIGESTED - {"distributed"}))
def test_a_field_that_does_not_decide_it_leaves_the_digest(field: str):
    assert digest(**{field: OTHER[field]}) == digest()
    assert lasting(**{field: OTHER[field]}) == lasting()


def test_of_the_workers_only_their_number_changes_the_digest():
    assert digest(distributed={"num_workers": 2}) != digest()
    elsewhere = {"strategy": "fsdp", "cpu_offload": True, "cpus_per_worker": 4, "gpus_per_worker": 1, "timeout_s": 5}
    assert digest(distributed=elsewhere) == digest()


def test_a_knob_that_may_be_turned_leaves_the_digest_of_what_lasts():
    assert lasting("learning_rate", learning_rate=1e-3) == lasting("learning_rate")
    assert lasting("learning_rate", learning_rate=1e-3, lora_r=8) != lasting("learning_rate")
    assert lasting(lora_r=RunFields.model_fields["lora_r"].default) == lasting(), "a default that is spelled out"


def test_order_and_spelling_of_the_file_do_not_matter(tmp_path: Path):
    first = load_text(tmp_path, LEAST + "lora_r: 8\nlora_alpha: 16\n").spec
    second = load_text(tmp_path, "lora_alpha: 16.0\nlora_rank: 8\n" + LEAST).spec
    assert first.digest == second.digest


def test_another_process_finds_the_same_digest():
    program = "import sys; from raylora.spec.run import RunSpec; print(RunSpec.model_validate_json(sys.argv[1]).digest)"
    spec = RunSpec.model_validate(BASE | {"datasets": [{"path": "b", "columns": {"x": "1", "a": "2"}}]})
    done = subprocess.run(
        [sys.executable, "-c", program, spec.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout.strip() == spec.digest
