"""Bases that train one adapter at a time: a second is refused, and one after the other trains as a plain loop does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from raylora.errors import ModelError
from raylora.train.schedule import learning_rate
from tests.reference.naive_lora import add_naive_lora, train_plainly
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.pack_run import admit, assert_same_bits, losses_of, place_tiny, state_of, train_all, turn
from tests.unit.train.tiny_run import open_rows, save_base, save_materials, tiny_spec


@pytest.fixture(scope="module")
def for_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the base, three for one adapter: an attention or dropout of its own, a window below a row."""
    home = save_materials(tmp_path_factory.mktemp("for-one"), 60)
    vocab_size = len(small_tokenizer())
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 64}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": vocab_size}
    torch.manual_seed(0)
    bloom = BloomConfig(vocab_size=vocab_size, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(bloom).save_pretrained(home / "bloom")
    MistralForCausalLM(MistralConfig(**shape, **heads)).save_pretrained(home / "window")
    for name in ("bloom", "window"):
        small_tokenizer().save_pretrained(home / name)
    save_base(home / "drops", attention_dropout=0.1)
    return home


@pytest.mark.parametrize(
    ("base", "bank", "why"),
    [
        ("bloom", "packed", "has an attention of its own, so it takes the rows of one adapter at a time"),
        ("window", "packed", "has sliding_window: 64, below sequence_len: 128, so it takes the rows of one adapter"),
        ("drops", "packed", r"draws by chance in training \(attention_dropout: 0.1; .* would draw otherwise beside"),
        ("base", "peft", "adapter_bank: peft holds one adapter"),
    ],
)
def test_where_one_adapter_trains_a_second_is_refused_before_anything_is_trained(
    for_one: Path, base: str, bank: str, why: str
):
    fields = {"adapter_bank": bank, "val_set_size": 6, "max_steps": 6}
    spec = tiny_spec(for_one / base, for_one / "rows.jsonl", **fields)
    trainee = place_tiny(spec)
    first = admit(trainee, 0, spec, for_one)
    turn(trainee, [first])
    before = state_of(trainee, first)
    with pytest.raises(ModelError, match=why) as refused:
        trainee.admit(1, spec)
    assert "for slot 1, beside slot 0" in str(refused.value)
    assert list(trainee.steppers) == [0]
    assert_same_bits(state_of(trainee, first), before)
    train_all(trainee, [first])
    assert losses_of(first, ["train_loss"])[-1] < losses_of(first, ["train_loss"])[0]


@pytest.mark.parametrize("base", ["bloom", "window"])
def test_padded_lines_are_trained_as_a_plain_loop_trains_them(for_one: Path, base: str):
    """One run after the other in the slot, each to the losses of transformers' model with a naive LoRA."""
    shared = {"max_steps": 4, "lora_target_modules": "all-linear"}
    specs = [tiny_spec(for_one / base, for_one / "rows.jsonl", **shared, seed=seed) for seed in (1, 2)]
    trainee = place_tiny(specs[0])
    for spec in specs:
        member = admit(trainee, 0, spec, for_one)
        start = trainee.bank.export(0).tensors
        train_all(trainee, [member])
        trainee.release(0)
        model = AutoModelForCausalLM.from_pretrained(for_one / base, dtype=torch.float32)
        add_naive_lora(model, start, spec.lora_alpha)
        rows, _ = open_rows(spec, for_one / "cache")
        steps = [rows.step(step, 0, 1) for step in range(4)]
        rates = [learning_rate(spec, step, 4) for step in range(4)]
        adamw = partial(torch.optim.AdamW, lr=0.0, weight_decay=spec.weight_decay)
        wanted, _ = train_plainly(model, steps, rates, adamw, spec.max_grad_norm)
        assert losses_of(member, ["train_loss"]) == pytest.approx(wanted, abs=1e-5)
