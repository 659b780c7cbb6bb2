"""Runs with heads: packed as alone on decoders, resumed as whole, what they learn, what is counted and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.errors import ModelError
from raylora.model.bank.heads import SAVED
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.inspect import inspect_targets
from raylora.model.targets import adapter_values
from raylora.train.member import Member
from raylora.train.prediction.estimate import estimate
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import (
    admit,
    assert_each_is_as_alone,
    assert_same_bits,
    events_of,
    losses_of,
    place_tiny,
    state_of,
    train_all,
    trained,
)
from tests.unit.train.tiny_heads import FAMILIES, MEMBERS, QUANTIZED, TASKS, head_spec, save_family, save_home
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {"val_set_size": 8, "eval_steps": 3, "max_steps": 6}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_home(tmp_path_factory.mktemp("heads"))
    save_family(folder / "drops", "llama", classifier_dropout=0.3)
    return folder


@pytest.mark.parametrize(
    ("family", "task", "fields"),
    [
        ("llama", "seq_cls", {}),
        pytest.param("drops", "token_cls", {"load_in_4bit": True}, marks=pytest.mark.slow),
        pytest.param(
            *("llama", "reward", {"load_in_8bit": True, "gradient_checkpointing": True}), marks=pytest.mark.slow
        ),
    ],
    ids=["seq_cls", "token_cls-nf4-dropout", "reward-int8-recomputed"],
)
def test_members_together_are_members_alone(home: Path, family: str, task: str, fields: dict[str, Any]):
    kinds = MEMBERS if task == "seq_cls" else (*MEMBERS, *QUANTIZED)
    specs = [head_spec(home, family, task, **{**FIELDS, **member, **fields}) for member in kinds]
    assert_each_is_as_alone(*trained(home, *specs), home)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_what_is_asked_for_is_learned(home: Path, family: str, task: str):
    fields = {**FIELDS, "max_steps": 40, "eval_steps": 20, "micro_batch_size": 4}
    _, (member,) = trained(home, head_spec(home, family, task, **fields))
    losses = losses_of(member, ["train_loss"])
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    told = ("reward_accuracy", "reward_margin") if task == "reward" else ("accuracy", "f1")
    assert {f"train_{name}" for name in told} <= events_of(member, "step")[0].values.keys()
    assert {f"eval_{name}" for name in told} <= events_of(member, "eval")[-1].values.keys()


@pytest.mark.parametrize(("family", "task"), [("llama", "token_cls"), ("roberta", "seq_cls")])
def test_a_resumed_run_is_one_that_went_on(home: Path, family: str, task: str, tmp_path: Path):
    spec = head_spec(home, family, task, **FIELDS, save_steps=3)
    whole, (member,) = trained(home, spec)
    trainee = place_tiny(spec)
    first = admit(trainee, 0, spec, home, tmp_path)
    while first.progress.step < 3:
        train_one(trainee, first)
    first.save()
    again = place_tiny(spec)
    second = admit(again, 4, spec, home, start_from=first.settle())
    train_all(again, [second])
    assert_same_bits(state_of(again, second), state_of(whole, member))


def train_one(trainee: Trainee, member: Member) -> None:
    share = member.share()
    result = solo_step(trainee, share.batches, share.step, share.learning_rate)
    member.took(share, result, 1.0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_predicted_to_train_trains(home: Path, family: str, task: str):
    spec = head_spec(home, family, task)
    trainee = build_tiny(spec)
    predicted = estimate(spec, read_config(home / family), "cpu")
    assert predicted.trainable_parameters == trainee.num_trainable(0)
    assert predicted.base_parameters == sum(parameter.numel() for parameter in trainee.frozen)
    assert predicted.ranks[0].adapters_bytes == 4 * trainee.num_trainable(0)
    of_head = {name: each for name, each in trainee.bank.parameters(0).items() if name.startswith(SAVED)}
    assert of_head
    assert all(each.dtype == torch.float32 and each.requires_grad for each in of_head.values())
    assert not any(parameter.requires_grad for parameter in trainee.model.parameters())


@pytest.mark.parametrize("task", ["seq_cls", "reward"])
def test_ranks_of_adalora_are_predicted_without_the_head(home: Path, task: str):
    spec = head_spec(home, "llama", task, adapter="adalora", lora_r=4, target_r=2, tinit=1, tfinal=2)
    trainee = build_tiny(spec)
    of_head = sum(each.numel() for name, each in trainee.bank.parameters(0).items() if name.startswith(SAVED))
    num_values = trainee.num_trainable(0)
    (predicted,) = estimate(spec, read_config(home / "llama"), "cpu").ranks
    assert predicted.adapters_bytes == 4 * num_values + 8 * (num_values - of_head), "with both means of the ranks"


def test_inspect_and_the_plan_count_the_head(home: Path):
    spec = head_spec(home, "roberta", "seq_cls")
    model = base_on_meta(read_config(home / "roberta"), spec, torch.float32)
    num_values = build_tiny(spec).num_trainable(0)
    assert inspect_targets(model, spec).trainable_parameters == adapter_values(model, spec) == num_values


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_refused_bins_and_takes_pairs(home: Path, family: str):
    """A bin of an encoder is no more than its texts, on as many lines as they are."""
    plain = head_spec(home, family, "seq_cls")
    trainee = place_tiny(plain)
    with pytest.raises(ModelError, match=r"^sample_packing: .*line of its own.*Set sample_packing: false$"):
        trainee.admit(0, plain.model_copy(update={"sample_packing": True}))
    assert not trainee.steppers
    trainee.admit(0, plain)
    if family == "roberta":
        of_pairs = head_spec(home, family, "reward")
        place_tiny(of_pairs).admit(0, of_pairs)


def test_padding_of_an_encoder_is_not_seen(home: Path):
    spec = head_spec(home, "bert", "token_cls", micro_batch_size=6)
    rows, _ = open_rows(spec, home / "cache")
    (batch,) = rows.step(0, 0, 1)
    assert int((batch.segment_ids_BT == 0).sum())
    whole = solo_step(build_tiny(spec), [batch], 0, 0.0).loss
    single = rows.step(0, 0, 6) + [one for rank in range(1, 6) for one in rows.step(0, rank, 6)]
    assert solo_step(build_tiny(spec), single, 0, 0.0).loss == pytest.approx(whole, abs=1e-5)
