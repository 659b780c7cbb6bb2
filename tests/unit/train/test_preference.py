"""Runs that learn from pairs and from rated answers: packed as alone, through either bank, and what they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import MistralConfig, MistralForCausalLM

from raylora.errors import ModelError
from raylora.spec.run import RunSpec
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.pack_run import (
    JUDGED,
    OF_PAIRS,
    admit,
    assert_each_is_as_alone,
    events_of,
    losses_of,
    place_tiny,
    train_all,
    trained,
)
from tests.unit.train.tiny_run import save_base, tiny_spec, write_pairs, write_rated


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    save_base(folder / "base")
    write_pairs(folder / "pairs.jsonl", 60)
    write_rated(folder / "rated.jsonl", 60)
    return folder


def spec_of(home: Path, **fields: Any) -> RunSpec:
    is_rated = fields.get("rl") == "kto"
    file, kind = ("rated.jsonl", "unpaired_preference") if is_rated else ("pairs.jsonl", "preference")
    source = {"path": str(home / file), "type": kind}
    shared = {"datasets": [source], "val_set_size": 8, "eval_steps": 3, "max_steps": 6, "rl": "dpo"}
    return tiny_spec(home / "base", home / file, **{**shared, **fields})


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"rl": "dpo", "load_in_8bit": True},
        {"rl": "ipo", "load_in_4bit": True},
        {"rl": "orpo", "load_in_4bit": True, "gradient_checkpointing": True},
        {"rl": "kto"},
        {"rl": "kto", "load_in_4bit": True},
    ],
    ids=["dpo-int8", "ipo-nf4", "orpo-nf4-recomputed", "kto", "kto-nf4"],
)
def test_members_together_are_members_alone(home: Path, fields: dict[str, Any]):
    kinds = OF_PAIRS if spec_of(home, **fields).quantization == "none" else JUDGED
    specs = [spec_of(home, **{"max_steps": 4, "eval_steps": 4, **member}, **fields) for member in kinds]
    assert_each_is_as_alone(*trained(home, *specs), home)


def test_a_member_that_learns_prompts_too_is_a_member_alone(home: Path):
    asked = {"rl": "orpo", "lora_r": 4, "max_steps": 4, "eval_steps": 2}
    specs = [spec_of(home, **asked, train_on_inputs=learned) for learned in (True, False)]
    trainee, (of_all, of_answers) = trained(home, *specs)
    assert losses_of(of_all) != pytest.approx(losses_of(of_answers), abs=1e-2)
    assert_each_is_as_alone(trainee, [of_all, of_answers], home)


@pytest.mark.parametrize("rl", ["dpo", "ipo", "orpo", "kto"])
def test_pefts_bank_learns_the_same(home: Path, rl: str):
    _, (ours,) = trained(home, spec_of(home, rl=rl, lora_r=4))
    trainee = place_tiny(spec_of(home, rl=rl, lora_r=4, adapter_bank="peft"))
    theirs = admit(trainee, 0, trainee.spec, home)
    fresh = place_tiny(spec_of(home, rl=rl, lora_r=4))
    fresh.admit(0, fresh.spec)
    trainee.bank.load(0, fresh.bank.export(0).tensors)
    train_all(trainee, [theirs])
    assert losses_of(theirs) == pytest.approx(losses_of(ours), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rl", ["dpo", "ipo", "orpo"])
def test_what_is_chosen_becomes_likelier(home: Path, rl: str):
    _, (member,) = trained(home, spec_of(home, rl=rl, lora_r=8, max_steps=30, eval_steps=2, learning_rate=1e-2))
    first, last = events_of(member, "eval")[0].values, events_of(member, "eval")[-1].values
    assert last["eval_loss"] < first["eval_loss"]
    assert last["eval_reward_accuracy"] > 0.9
    assert last["eval_reward_margin"] > first["eval_reward_margin"]
    assert {"train_reward_accuracy", "train_reward_margin"} <= events_of(member, "step")[0].values.keys()


def test_a_base_that_would_mix_the_two_texts_is_refused(home: Path):
    shape = {"vocab_size": len(small_tokenizer()), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = MistralConfig(num_attention_heads=2, num_key_value_heads=1, sliding_window=8, **shape)
    MistralForCausalLM(config).save_pretrained(home / "windows")
    small_tokenizer().save_pretrained(home / "windows")
    spec = spec_of(home, base_model=str(home / "windows"))
    with pytest.raises(ModelError, match=r"sliding_window: 8, below sequence_len.*For rl take another base"):
        place_tiny(spec).admit(0, spec)
