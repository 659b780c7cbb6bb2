"""Bases of images and recordings: how they were published, what gets an adapter, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2WithRegistersConfig,
    PretrainedConfig,
    SwinConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
)

from raylora.errors import ModelError
from raylora.model.base.folder import check_listing
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.head_seat import seat_of
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.source.source import resolve_base
from raylora.model.targets import linear_layers, match_targets
from raylora.spec.run import RunSpec
from tests.unit.train.tiny_audio import TASK as RECORDINGS
from tests.unit.train.tiny_audio import audio_spec, save_recordings
from tests.unit.train.tiny_images import TASK, image_spec, save_images, save_vit
from tests.unit.train.tiny_run import build_tiny

LAYERS = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
SMALL = {"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp("bases"), num_rows=8)


def test_all_linear_is_attention_and_mlp(home: Path):
    """Neither the convolution that cuts patches nor the head."""
    trainee = build_tiny(image_spec(home, load_in_4bit=True))
    names = [f"vit.layers.{layer}.{name}" for layer in range(2) for name in LAYERS]
    assert match_targets(trainee.model, image_spec(home)) == names
    assert all(isinstance(layer, FrozenLinear) for layer in linear_layers(trainee.model).values())
    seat = seat_of(trainee.model)
    assert seat is not None and not list(seat.parameters())
    patches = trainee.model.get_submodule("vit.embeddings.patch_embeddings.projection")
    assert isinstance(patches, torch.nn.Conv2d)
    config = trainee.export(0).config
    assert (config["task_type"], config["modules_to_save"]) == (None, ["classifier"])


def test_a_target_that_is_the_convolution_or_the_head_is_refused(home: Path):
    model = base_on_meta(read_config(home / "vit"), image_spec(home), torch.float32)
    for name, said in (("projection", "only vit.embeddings.*Conv2d"), ("classifier", "the head classifier")):
        with pytest.raises(ModelError, match=said):
            match_targets(model, image_spec(home, lora_target_modules=["q_proj", name]))


def test_names_of_layers_before_and_now_are_one_base(home: Path):
    """Files of vision transformers have other names than transformers' modules today; a base without a head, too."""
    in_file = load_file(home / "vit" / "model.safetensors").keys()
    assert "vit.encoder.layer.0.attention.attention.query.weight" in in_file
    bare = AutoModel.from_pretrained(home / "vit", add_pooling_layer=False)
    bare.save_pretrained(home / "bare")
    (home / "bare" / "preprocessor_config.json").write_bytes((home / "vit" / "preprocessor_config.json").read_bytes())
    theirs = dict(bare.named_parameters())
    for base in ("vit", "bare"):
        trainee = build_tiny(image_spec(home, base_model=str(home / base)))
        found = dict(trainee.model.named_parameters())
        assert {f"vit.{name}" for name in theirs} == found.keys()
        assert all(torch.equal(found[f"vit.{name}"], tensor) for name, tensor in theirs.items())


def test_a_bases_own_head_is_started_from_where_it_fits(home: Path):
    save_vit(home / "digits", num_labels=10)
    theirs = ViTForImageClassification.from_pretrained(home / "digits").classifier.weight
    name = "base_model.model.classifier.weight"

    def start(base: str) -> torch.Tensor:
        return build_tiny(image_spec(home, base_model=str(home / base))).bank.export(0).tensors[name]

    assert torch.equal(start("digits"), theirs)
    assert start("vit").shape == (10, 32) and not torch.equal(start("vit"), theirs)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (BertConfig(), "'bert', which has no AutoModelForImageClassification. Allowed: a vision transformer"),
        (ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]), "ConvNextForImageClassification makes other"),
        (
            SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[2]),
            "SwinForImageClassification makes other tokens of a file",
        ),
        (Dinov2WithRegistersConfig(**SMALL), "Dinov2WithRegistersForImageClassification makes other tokens of a file"),
        (
            DeiTConfig(**SMALL),
            "'deit', which has more than one AutoModelForImageClassification. Allowed: a vision transformer",
        ),
    ],
    ids=["bert", "convnext", "swin", "dinov2", "deit"],
)
def test_a_base_of_other_tokens_is_refused(config: PretrainedConfig, said: str):
    spec = RunSpec.model_validate({"base_model": "b", "datasets": [{"path": "c", "type": "image"}], **TASK})
    with pytest.raises(ModelError, match=said):
        base_on_meta(config, spec, torch.float32)


def test_all_linear_of_a_spectrogram_transformer_is_attention_and_mlp(home: Path):
    """Its head, a norm and a linear layer, is trained whole."""
    save_recordings(home, num_rows=8)
    trainee = build_tiny(audio_spec(home, load_in_8bit=True))
    names = [f"audio_spectrogram_transformer.layers.{layer}.{name}" for layer in range(2) for name in LAYERS]
    assert match_targets(trainee.model, audio_spec(home)) == names
    adapter = trainee.export(0)
    assert (adapter.config["task_type"], adapter.config["modules_to_save"]) == (None, ["classifier"])
    head = {
        name.partition("classifier.")[2]: each.shape for name, each in adapter.tensors.items() if "classifier" in name
    }
    of_norm = {f"layernorm.{name}": (32,) for name in ("weight", "bias")}
    assert head == {"dense.weight": (3, 32), "dense.bias": (3,), **of_norm}


def test_a_base_of_speech_that_is_not_cut_into_patches_is_refused():
    spec = RunSpec.model_validate({"base_model": "b", "datasets": [{"path": "c", "type": "audio"}], **RECORDINGS})
    config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ModelError, match="Wav2Vec2ForSequenceClassification makes other tokens of a file"):
        base_on_meta(config, spec, torch.float32)


def test_a_base_needs_its_processor_and_no_tokenizer(home: Path, tmp_path: Path):
    spec = image_spec(home)
    assert resolve_base(spec, tmp_path).path == home / "vit"
    with pytest.raises(ModelError, match=r"has no image processor or feature extractor \(preprocessor_config"):
        check_listing(["config.json", "model.safetensors", "tokenizer.json"], "there", "image_cls")
    with pytest.raises(ModelError, match="there has no tokenizer"):
        check_listing(["config.json", "model.safetensors", "preprocessor_config.json"], "there")
