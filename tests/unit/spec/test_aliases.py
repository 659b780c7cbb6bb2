from __future__ import annotations

from pathlib import Path

import pytest

from raylora.spec.reading.aliases import DEFAULTS_NOTE
from raylora.spec.reading.foreign_keys import answer
from raylora.spec.reading.other_tools import DATASET_ALIASES, RUN_ALIASES
from raylora.spec.run import RunSpec
from tests.unit.spec.foreign_files import LLAMA_FACTORY
from tests.unit.spec.specs import LEAST, load_text, problems_of

AXOLOTL = """\
base_model: org/model
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: org/rows
    type: chat_template
    field_messages: conversations
dataset_prepared_path: last_run_prepared
val_set_size: 0.1
output_dir: ./outputs/out
adapter: qlora
lora_model_dir:
sequence_len: 2048
sample_packing: true
eval_sample_packing: true
pad_to_sequence_len: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
wandb_project:
wandb_entity:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
fp16:
tf32: false
gradient_checkpointing: true
resume_from_checkpoint:
logging_steps: 1
attn_implementation: flash_attention_2
loss_watchdog_threshold: 5.0
warmup_steps: 10
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
dataset_processes: 8
"""

TRL = """\
model_name_or_path: org/model
dataset_name: org/rows
max_length: 2048
packing: true
assistant_only_loss: true
r: 16
target_modules: [q_proj]
optim: adamw_torch_fused
lr_scheduler_type: constant_with_warmup
warmup_steps: 0.1
max_steps: -1
save_total_limit: 3
fp16: false
report_to: [mlflow]
"""


def spec_of(**fields: object) -> RunSpec:
    return RunSpec.model_validate({"base_model": "org/model", "datasets": [{"path": "org/rows"}]} | fields)


def test_a_llama_factory_file_is_read(tmp_path: Path):
    loaded = load_text(tmp_path, LLAMA_FACTORY)
    assert loaded.spec == spec_of(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=False,
        lora_r=8,
        lora_alpha=16,
        lora_target_modules=["q_proj", "v_proj"],
        datasets=[{"path": "org/rows"}, {"path": "more.jsonl"}],
        sequence_len=2048,
        dataset_num_proc=4,
        storage={"uri": "saves/model"},
        logging_steps=10,
        save_steps=500,
        micro_batch_size=2,
        gradient_accumulation_steps=8,
        learning_rate=1e-4,
        num_epochs=3,
        warmup_ratio=0.1,
        dtype="bfloat16",
        distributed={"timeout_s": 18000},
        val_set_size=0.1,
        eval_steps=500,
    )
    assert "line 9: lora_rank (LLaMA-Factory) is read as lora_r" in loaded.notes
    assert "line 3: quantization_bit: 4 (LLaMA-Factory) is read as load_in_4bit: true" in loaded.notes
    assert "line 19: plot_loss has no effect: raylora does it, or leaves it out, by itself" in loaded.notes


def test_an_axolotl_file_is_read(tmp_path: Path):
    loaded = load_text(tmp_path, AXOLOTL)
    assert loaded.spec == spec_of(
        load_in_4bit=True,
        datasets=[{"path": "org/rows", "type": "chat", "columns": {"messages": "conversations"}}],
        val_set_size=0.1,
        storage={"uri": "./outputs/out"},
        sequence_len=2048,
        sample_packing=True,
        lora_r=32,
        lora_alpha=16,
        lora_dropout=0.05,
        gradient_accumulation_steps=4,
        micro_batch_size=2,
        optimizer="adamw_bnb_8bit",
        gradient_checkpointing=True,
        warmup_steps=10,
        dataset_num_proc=8,
    )
    assert "line 6: datasets.0.type: 'chat_template' is read as type: 'chat'" in loaded.notes
    assert not any("wandb" in note or "lora_model_dir" in note for note in loaded.notes)


def test_a_trl_file_is_read(tmp_path: Path):
    loaded = load_text(tmp_path, TRL)
    assert loaded.spec == spec_of(
        sequence_len=2048,
        sample_packing=True,
        train_on_inputs=False,
        lora_target_modules=["q_proj"],
        lr_scheduler="constant",
        warmup_ratio=0.1,
        storage={"keep_checkpoints": 3},
    )
    assert loaded.notes[-1] == DEFAULTS_NOTE


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("bf16: false", "dtype", "float32"),
        ("bf16: auto", "dtype", "auto"),
        ("float32: true", "dtype", "float32"),
        ("lora_target: all", "lora_target_modules", "all-linear"),
        ("lora_target_linear: false", "lora_target_modules", "all-linear"),
        ("quantization_bit: 8", "quantization", "int8"),
        ("train_on_prompt: true", "train_on_inputs", True),
        ("completion_only_loss: false", "train_on_inputs", True),
        ("disable_gradient_checkpointing: false", "gradient_checkpointing", True),
        ("adapter: qlora", "quantization", "nf4"),
        ("chat_template: tokenizer_default", "chat_template", None),
        ("packing: true\nneat_packing: true", "sample_packing", True),
        ("bf16: true\nfp16: false", "dtype", "bfloat16"),
        ("peft_use_dora: true", "use_dora", True),
        ("peft_use_rslora: true", "use_rslora", True),
        ("peft_init_lora_weights: pissa", "init_lora_weights", "pissa"),
        ("pissa_init: true\npissa_convert: true", "init_lora_weights", "pissa_niter_16"),
        ("pissa_init: false", "init_lora_weights", True),
        ("loraplus_lr_ratio: 16\nloraplus_lr_embedding: 1.0e-6", "loraplus_lr_ratio", 16),
    ],
)
def test_a_foreign_value_is_translated(tmp_path: Path, line: str, field: str, value: object):
    assert getattr(load_text(tmp_path, LEAST + line).spec, field) == value


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("lora_r: 8\nlora_rank: 8", "line 4: lora_rank: lora_rank and lora_r both set lora_r; remove one of them"),
        ("lora_rank: 8\nlora_r: 4", "line 3: lora_rank: lora_rank and lora_r both set lora_r; remove one of them"),
        ("r: 8\nlora_rank: 4", "line 4: lora_rank: lora_rank and r both set lora_r; remove one of them"),
        (
            "storage: {uri: a}\noutput_dir: b",
            "line 4: output_dir: output_dir and storage.uri both set storage.uri; remove one of them",
        ),
        (
            "adapter: qlora\nload_in_4bit: false",
            "line 3: adapter: adapter and load_in_4bit both set load_in_4bit; remove one of them",
        ),
        ("fp16: true", "line 3: fp16: float16 needs loss scaling"),
        ("quantization_bit: 3", "line 3: quantization_bit: got 3; allowed: 4 or 8"),
        ("max_length: null", "line 3: max_length: rows without a limit are not supported"),
        ("special_tokens: {eos_token: x}", "line 3: special_tokens: only pad_token is read"),
        (
            "stage: pt",
            "line 3: stage: got 'pt'; a key of another tool of which raylora does only",
        ),
        ("trl: ppo", "line 3: trl: a key of another tool that raylora does not support: raylora learns from pref"),
        (
            "loftq_config: {loftq_bits: 4}",
            "line 3: loftq_config: a key of another tool that raylora does not support: write init_lora_weights: loftq",
        ),
        ("pissa_iter: 4", "line 3: pissa_iter: a key of another tool that raylora does not support: write init_lora"),
        (
            "pissa_convert: 1.5",
            "line 3: pissa_convert: got 1.5; a key of another tool of which raylora does only",
        ),
        ("use_galore: true", "line 3: use_galore: a key of another tool that raylora does not support"),
        ("deepspeed: zero3.json", "write distributed: {strategy:"),
        ("template: qwen3", "line 3: template: a key of another tool that raylora does not support: templates have no"),
        ("report_to: wandb", "line 3: report_to: got 'wandb'; a key of another tool of which raylora does only: none"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, lines: str, problem: str):
    (said,) = problems_of(tmp_path, LEAST + lines)
    assert problem in said


@pytest.mark.parametrize(
    "key",
    [
        *("lora_target_linear", "assistant_only_loss", "disable_gradient_checkpointing", "bf16", "fp16", "pure_bf16"),
        *("float32", "packing", "double_quantization"),
    ],
)
def test_a_foreign_flag_takes_true_and_false_alone(tmp_path: Path, key: str):
    (problem,) = problems_of(tmp_path, f"{LEAST}{key}: no\n")
    assert "got 'no'; allowed: true" in problem
    load_text(tmp_path, f"{LEAST}{key}: false\n")


def test_names_of_llama_factorys_own_list_are_refused(tmp_path: Path):
    (said,) = problems_of(tmp_path, "base_model: org/model\ndataset: identity,alpaca_en_demo\n")
    assert said.startswith("line 2: dataset: got 'identity,alpaca_en_demo'; names of dataset_info.json are not read")


def test_a_hub_token_is_not_repeated(tmp_path: Path):
    (said,) = problems_of(tmp_path, LEAST + "hub_token: hf_hunter2\n")
    assert "secrets are read from the environment only" in said
    assert "hunter2" not in said


def test_no_foreign_key_is_one_of_ours_or_has_two_answers():
    for aliases, in_dataset in ((RUN_ALIASES, False), (DATASET_ALIASES, True)):
        assert [key for key in aliases if answer(key, None, in_dataset) is not None] == []
    assert [key for key in RunSpec.model_fields if key in RUN_ALIASES or answer(key, None, False) is not None] == []


@pytest.mark.slow
def test_trl_and_peft_have_the_names_that_are_said_to_be_theirs():
    from peft import LoraConfig
    from trl import DPOConfig, KTOConfig, ModelConfig, ScriptArguments, SFTConfig

    # Names that earlier releases had: transformers 4 and TRL before 0.20.
    former = {"torch_dtype", "max_seq_length"}
    kinds = (SFTConfig, DPOConfig, KTOConfig, ModelConfig, ScriptArguments)
    trl = {name for each in kinds for name in each.__dataclass_fields__}
    assert {key for key, alias in RUN_ALIASES.items() if alias.tool == "TRL"} - trl == former
    assert {key for key, alias in RUN_ALIASES.items() if alias.tool == "PEFT"} <= set(LoraConfig.__dataclass_fields__)
