"""Bases of tasks with a head: which there are, how they were published, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, GPTNeoXConfig, PretrainedConfig, T5Config, XLNetConfig

from raylora.errors import ModelError
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.head_seat import seat_of
from raylora.model.base.meta import meta_model, read_config
from raylora.model.base.task_class import sees_both_sides, task_class
from raylora.model.inspect import inspect_targets
from raylora.model.targets import linear_layers, match_targets
from raylora.spec.fields.task import TaskFields
from tests.unit.train.tiny_heads import FAMILIES, SHAPE, head_spec, save_home
from tests.unit.train.tiny_run import build_tiny

SEQ_CLS = TaskFields(task_type="seq_cls", labels=("a", "b"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_home(tmp_path_factory.mktemp("bases"), num_rows=8)


@pytest.mark.parametrize(
    ("config", "answer"),
    [(BertConfig(), True), (BertConfig(is_decoder=True), False), (GPTNeoXConfig(), False), (XLNetConfig(), True)],
    ids=["bert", "bert-decoder", "gpt-neox", "xlnet"],
)
def test_who_sees_both_sides(config: PretrainedConfig, answer: bool):
    assert sees_both_sides(config) == answer


def test_a_base_that_reads_one_text_and_writes_another_is_refused():
    with pytest.raises(ModelError, match="cannot be learned by model_type 't5', which reads one text"):
        task_class(T5Config(), "seq_cls")


def test_a_head_that_peft_would_not_save_is_refused():
    with pytest.raises(ModelError, match="XLNetForSequenceClassification has its head under another name than score"):
        meta_model(XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=32), torch.float32, SEQ_CLS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_no_part_of_the_base(home: Path, family: str):
    """Nothing that counts, quantizes, places or adapts the base meets it."""
    trainee = build_tiny(head_spec(home, family, "seq_cls", load_in_4bit=True))
    seat = seat_of(trainee.model)
    assert seat is not None
    assert not list(seat.parameters())
    assert all(isinstance(layer, FrozenLinear) for layer in linear_layers(trainee.model).values())
    assert not any(name.startswith(seat.name) for name in trainee.bank.parameters(0))
    config = trainee.export(0).config
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", [seat.name])


@pytest.mark.parametrize("family", FAMILIES)
def test_inspect_shows_no_head(home: Path, family: str):
    spec = head_spec(home, family, "seq_cls")
    found = inspect_targets(meta_model(read_config(home / family), torch.float32, spec), spec)
    assert not found.problems
    assert not any(row.pattern.startswith(("score", "classifier")) for row in found.rows)
    assert all(row.num_adapted == row.num_modules for row in found.rows)


def test_a_target_that_is_the_head_is_told_so(home: Path):
    spec = head_spec(home, "bert", "seq_cls", lora_target_modules=["query", "classifier"])
    model = meta_model(read_config(home / "bert"), torch.float32, spec)
    with pytest.raises(ModelError, match="'classifier' matches the head classifier, which is trained whole"):
        match_targets(model, spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_published_without_any_head_is_the_same_base(home: Path, family: str):
    """Its names are those of the model without what they begin with there."""
    bare = AutoModel.from_pretrained(home / family)
    if family == "roberta":
        bare.pooler = None  # the classifier has none
    bare.save_pretrained(home / f"{family}-bare")
    for file in (home / family).glob("tokenizer*"):
        (home / f"{family}-bare" / file.name).write_bytes(file.read_bytes())
    whole, found = (build_tiny(head_spec(home, name, "token_cls")) for name in (family, f"{family}-bare"))
    for one, other in zip(whole.frozen, found.frozen, strict=True):
        assert torch.equal(one, other)


def test_the_first_berts_names_of_norms_are_read(home: Path):
    old = shutil.copytree(home / "bert", home / "old")
    tensors = load_file(old / "model.safetensors")
    for before, now in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        tensors = {name.replace(before, now): tensor for name, tensor in tensors.items()}
    assert any("gamma" in name for name in tensors)
    save_file(tensors, old / "model.safetensors", {"format": "pt"})
    whole, found = (build_tiny(head_spec(home, name, "seq_cls")) for name in ("bert", "old"))
    for one, other in zip(whole.frozen, found.frozen, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("is_bare", [False, True], ids=["whole", "without its first part"])
def test_two_names_of_one_tensor_are_refused(home: Path, tmp_path: Path, is_bare: bool):
    """Which is meant, nobody can tell; of what the model does not read, it does not matter."""
    base = shutil.copytree(home / "bert", tmp_path / "doubled")
    tensors = load_file(base / "model.safetensors")
    tensors |= {f"bert.unread.LayerNorm.{name}": torch.zeros(1) for name in ("gamma", "weight")}
    if is_bare:
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    spec = head_spec(tmp_path, "doubled", "token_cls")
    assert build_tiny(spec)
    (first, *_) = (name for name in tensors if name.endswith("layer.1.output.LayerNorm.weight"))
    old = first.replace("weight", "gamma")
    save_file({**tensors, old: torch.zeros_like(tensors[first])}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"two tensors for 'bert\.") as caught:
        build_tiny(spec)
    assert repr(first) in str(caught.value) and repr(old) in str(caught.value)


def test_a_base_without_the_pooler_that_its_classifier_needs_is_refused(home: Path):
    """transformers would draw one at random, which stays as it is."""
    bare = shutil.copytree(home / "bert", home / "no-pooler")
    tensors = load_file(bare / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "pooler" not in name}, bare / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 2 of the tensors of BertForSequenceClassification, first .*pooler"):
        build_tiny(head_spec(home, "no-pooler", "seq_cls"))
    assert build_tiny(head_spec(home, "no-pooler", "token_cls"))


@pytest.mark.parametrize(("family", "positions"), [("bert", 130), ("roberta", 129)])
def test_rows_beyond_the_positions_are_refused(home: Path, family: str, positions: int):
    assert build_tiny(head_spec(home, family, "seq_cls", sequence_len=positions))
    with pytest.raises(ModelError, match=rf"sequence_len: got {positions + 1}, and .* has {positions} positions"):
        build_tiny(head_spec(home, family, "seq_cls", sequence_len=positions + 1))


def test_an_encoder_is_no_causal_language_model(home: Path):
    assert SHAPE["hidden_size"] == read_config(home / "bert").hidden_size
    with pytest.raises(ModelError, match="model_type 'bert' is no causal language model"):
        task_class(read_config(home / "bert"), "causal_lm")
