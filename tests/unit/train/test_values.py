"""Runs on images and recordings: packed as alone, resumed as whole, what is predicted, and what they learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raylora.errors import ModelError
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.inspect import inspect_targets
from raylora.spec.run import RunSpec
from raylora.spec.value_shape import row_tokens, value_shape
from raylora.train.prediction.estimate import estimate, estimate_pack
from raylora.train.prediction.forecast import forecast
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
from tests.unit.train.tiny_audio import audio_spec, save_recordings
from tests.unit.train.tiny_images import image_spec, save_images, save_vit
from tests.unit.train.tiny_run import CPU, build_tiny, open_rows, solo_step

pytestmark = pytest.mark.slow

MEMBERS: tuple[dict[str, Any], ...] = (
    {"lora_r": 4, "seed": 1},
    {"lora_r": 4, "seed": 2, "learning_rate": 1e-2, "micro_batch_size": 5},
    {"lora_r": 8, "seed": 3, "lora_target_modules": ["q_proj", "fc1"], "lora_dropout": 0.2},
    {"lora_r": 3, "seed": 4, "use_dora": True, "gradient_accumulation_steps": 2, "loraplus_lr_ratio": 4},
    {"lora_r": 32, "seed": 5, "adapter": "vera", "learning_rate": 2e-2},
    {"lora_r": 4, "seed": 6, "adapter": "adalora", "target_r": 2, "tinit": 1, "tfinal": 2},
    {"lora_r": 4, "seed": 7, "init_lora_weights": "eva"},
)
SpecOf = Callable[..., RunSpec]
SPECS = pytest.mark.parametrize("spec_of", [image_spec, audio_spec], ids=["image_cls", "audio_cls"])
FIELDS: dict[str, Any] = {"val_set_size": 8, "eval_steps": 3, "max_steps": 6}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_images(tmp_path_factory.mktemp("files"))
    save_recordings(folder)
    save_vit(folder / "drops", hidden_dropout_prob=0.1)
    return folder


@pytest.mark.parametrize(
    ("spec_of", "fields"),
    [(image_spec, {}), (image_spec, {"load_in_4bit": True, "gradient_checkpointing": True}), (audio_spec, {})],
    ids=["image_cls", "image_cls-nf4-recomputed", "audio_cls"],
)
def test_members_together_are_members_alone(home: Path, spec_of: SpecOf, fields: dict[str, Any]):
    specs = [spec_of(home, **{**FIELDS, **member, **fields}) for member in MEMBERS]
    assert_each_is_as_alone(*trained(home, *specs), home)


@SPECS
def test_a_resumed_run_is_one_that_went_on(home: Path, spec_of: SpecOf, tmp_path: Path):
    spec = spec_of(home, **FIELDS, lora_dropout=0.2)
    whole, (member,) = trained(home, spec)
    trainee = place_tiny(spec)
    first = admit(trainee, 0, spec, home, tmp_path)
    while first.progress.step < 3:
        share = first.share()
        first.took(share, solo_step(trainee, share.batches, share.step, share.learning_rate), 1.0)
    first.save()
    again = place_tiny(spec)
    second = admit(again, 4, spec, home, start_from=first.settle())
    train_all(again, [second])
    assert_same_bits(state_of(again, second), state_of(whole, member))


@SPECS
def test_what_is_asked_for_is_learned(home: Path, spec_of: SpecOf):
    fields = {**FIELDS, "max_steps": 60, "eval_steps": 60, "micro_batch_size": 8}
    _, (member,) = trained(home, spec_of(home, **fields))
    assert {"eval_accuracy", "eval_f1"} <= events_of(member, "eval")[-1].values.keys()
    losses = losses_of(member, ["train_loss"])
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])


@pytest.mark.parametrize("fields", [{}, {"load_in_4bit": True}], ids=["plain", "nf4"])
@SPECS
def test_what_is_predicted_to_train_trains(home: Path, spec_of: SpecOf, fields: dict[str, Any]):
    spec = spec_of(home, **fields)
    config, trainee = read_config(Path(spec.base_model)), build_tiny(spec)
    predicted = estimate(spec, config, "cpu")
    assert predicted.trainable_parameters == trainee.num_trainable(0)
    assert predicted.base_parameters == sum(each.numel() for each in build_tiny(spec_of(home)).frozen)
    assert not any(parameter.requires_grad for parameter in trainee.model.parameters())
    inspected = inspect_targets(base_on_meta(config, spec, torch.float32), spec)
    assert inspected.trainable_parameters == trainee.num_trainable(0)


def test_memory_is_that_of_patches_and_not_of_sequence_len(home: Path):
    config = read_config(home / "vit")
    short, long, finer = (
        image_spec(home, sequence_len=4),
        image_spec(home, sequence_len=4096, micro_batch_size=2),
        image_spec(home, micro_batch_size=4),
    )
    assert row_tokens(long, config) == 1 + 16
    assert estimate(short, config, "cpu") == estimate(long, config, "cpu")
    of_one = estimate(long, config, "cpu").ranks[0].activations_bytes
    assert estimate(finer, config, "cpu").ranks[0].activations_bytes > 1.5 * of_one
    assert estimate_pack([long, long], config, "cpu").ranks[0].activations_bytes > 1.5 * of_one


@SPECS
def test_a_step_is_foreseen_by_the_rows_of_a_pack(home: Path, spec_of: SpecOf):
    spec = spec_of(home)
    assert forecast(spec, read_config(Path(spec.base_model)), 2, 900, CPU).pass_s > 0


def test_a_rank_without_images_runs_its_pass(home: Path):
    """Of seven rows four are dealt to two ranks, then three: one rank's second batch is empty."""
    spec = image_spec(home, micro_batch_size=4, gradient_accumulation_steps=1)
    rows, _ = open_rows(spec, home / "cache")
    dealt = rows.step(11, 0, 5) + rows.step(11, 4, 5)
    assert [batch.num_tokens for batch in dealt].count(0) >= 1
    trainee = build_tiny(spec)
    with_empty = solo_step(trainee, dealt, 0, 0.0)
    without = solo_step(build_tiny(spec), [batch for batch in dealt if batch.num_tokens], 0, 0.0)
    assert with_empty.loss == without.loss
    assert with_empty.num_tokens == without.num_tokens == 17 * sum(batch.num_label_tokens for batch in dealt)


@SPECS
def test_files_are_read_in_the_dtype_of_the_base(home: Path, spec_of: SpecOf):
    spec = spec_of(home, dtype="bfloat16")
    trainee, (rows, _) = build_tiny(spec), open_rows(spec, home / "cache")
    in_float32 = solo_step(build_tiny(spec_of(home)), rows.step(0, 0, 1), 0, 0.0)
    assert solo_step(trainee, rows.step(0, 0, 1), 0, 0.0).loss == pytest.approx(in_float32.loss, rel=0.02)
    assert estimate(spec, read_config(Path(spec.base_model))).ranks[0].peak_bytes > 0


def test_a_base_with_dropout_of_its_own_takes_one_adapter_at_a_time(home: Path):
    spec = image_spec(home, base_model=str(home / "drops"))
    trainee = place_tiny(spec)
    trainee.admit(0, spec)
    with pytest.raises(ModelError, match=r"hidden_dropout_prob: 0.1.*; got a second one"):
        trainee.admit(1, spec)


def test_sides_may_differ():
    config: Any = SimpleNamespace(image_size=(8, 12), patch_size=[2, 3], num_channels=1)
    shape = value_shape("image_cls", config)
    assert shape is not None
    assert (shape.size, shape.num_tokens, str(shape)) == ((1, 8, 12), 17, "1 x 8 x 12")
    config.patch_size = 0
    assert value_shape("image_cls", config) is None
