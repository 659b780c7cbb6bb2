"""Which bases read a source and write a target, and whose output head is not their embedding."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, BartConfig, LlamaConfig, MT5Config, PretrainedConfig, T5Config

from raylora.errors import ModelError
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.frozen_linear import FrozenLinear, QuantLinear
from raylora.model.base.load import base_on_meta, load_base
from raylora.model.base.meta import meta_model, read_config
from raylora.model.base.task_class import has_own_head, task_class
from raylora.spec.fields.task import TaskFields
from tests.unit.train.tiny_seq2seq import FAMILIES, SHAPE, save_seq2seq, save_seq2seq_home, seq2seq_spec

TWO_SIDES = TaskFields(task_type="seq_2_seq_lm")
CPU = torch.device("cpu")
IDS = torch.tensor([[5, 8, 3, 1]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq_home(tmp_path_factory.mktemp("seq2seq"))


@pytest.mark.parametrize("config", [LlamaConfig(), BartConfig()])
def test_what_is_no_t5_is_refused(config: PretrainedConfig):
    with pytest.raises(ModelError, match=rf"cannot be learned by model_type '{config.model_type}'. Allowed: t5, mt5"):
        task_class(config, "seq_2_seq_lm")


def test_a_decoder_without_a_first_token_is_refused():
    with pytest.raises(ModelError, match=r"config\.json has no decoder_start_token_id"):
        task_class(T5Config(decoder_start_token_id=None), "seq_2_seq_lm")


def test_a_run_that_forgot_its_task_is_told_of_it():
    with pytest.raises(ModelError, match="or set task_type: seq_2_seq_lm"):
        task_class(T5Config(), "causal_lm")


@pytest.mark.parametrize(
    ("config", "is_own"),
    [(T5Config(), False), (T5Config(tie_word_embeddings=False), True), (MT5Config(), True), (LlamaConfig(), False)],
)
def test_whose_head_is_its_own(config: PretrainedConfig, is_own: bool):
    assert has_own_head(config) == is_own


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_holds_what_transformers_loads(home: Path, family: str):
    spec, config = seq2seq_spec(home, family), read_config(home / family)
    model = base_on_meta(config, spec, torch.float32)
    num_values = sum(parameter.numel() for parameter in model.parameters())
    load_base(model, home / family, CPU, lambda part: None)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(home / family)
    assert num_values == sum(parameter.numel() for parameter in theirs.parameters())
    held = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in theirs.named_parameters(remove_duplicate=False):
        assert torch.equal(held[name], parameter), name
    assert (model.lm_head.weight is model.shared.weight) == (family == "t5")
    name = "encoder.block.1.layer.0.SelfAttention.q"
    assert torch.equal(BaseWeights(model, home / family, CPU).original(name), theirs.get_submodule(name).weight)


def test_files_without_the_head_that_a_config_speaks_of_are_refused(home: Path, tmp_path: Path):
    model = AutoModelForSeq2SeqLM.from_pretrained(home / "mt5")
    model.lm_head.weight = model.shared.weight
    model.save_pretrained(tmp_path)
    spec = seq2seq_spec(home, "mt5")
    with pytest.raises(
        ModelError, match=r"lacks 1 of the tensors of MT5ForConditionalGeneration, first 'lm_head.weight'"
    ):
        load_base(base_on_meta(read_config(tmp_path), spec, torch.float32), tmp_path, CPU, lambda part: None)


def test_the_class_is_as_it_was():
    """A model whose head is its own leaves those that come after it tied."""
    meta_model(T5Config(tie_word_embeddings=False, decoder_start_token_id=0), torch.float32, TWO_SIDES)
    tied = meta_model(T5Config(decoder_start_token_id=0), torch.float32, TWO_SIDES)
    assert tied.lm_head.weight is tied.shared.weight


def save_head(folder: Path, head: Tensor) -> None:
    """Put an output head into the files of a base that has none."""
    kept = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**kept, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path) -> None:
    spec = seq2seq_spec(folder.parent, folder.name)
    load_base(base_on_meta(read_config(folder), spec, torch.float32), folder, CPU, lambda part: None)


def test_another_head_than_the_embedding_that_a_config_ties_is_refused(tmp_path: Path):
    """Transformers unties it; what the message says to do gives its logits under a config that says so."""
    folder = save_seq2seq(tmp_path / "base", "t5")
    embedding = load_file(folder / "model.safetensors")["shared.weight"]
    save_head(folder, embedding.clone())
    load(folder)
    head = torch.randn_like(embedding)
    save_head(folder, head)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert torch.equal(theirs.lm_head.weight, head)
    with pytest.raises(ModelError, match=r"shared.weight and lm_head.weight are one, .* by d_model \*\* -0.5"):
        load(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scale_decoder_outputs": False}))
    save_head(folder, head * SHAPE["d_model"] ** -0.5)
    load(folder)
    found = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(input_ids=IDS, decoder_input_ids=IDS).logits for model in (found, theirs)]
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_weight_is_unpacked_once_a_pass(home: Path, family: str, monkeypatch: pytest.MonkeyPatch):
    """Of `wo` T5 asks the dtype as well."""
    spec = seq2seq_spec(home, family, load_in_4bit=True)
    model = base_on_meta(read_config(home / family), spec, torch.float32)
    load_base(model, home / family, CPU, lambda part: None)
    names = {module: name for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    num_unpacked: Counter[str] = Counter()
    whole = QuantLinear.whole

    def noted(layer: FrozenLinear, held: Tensor, dtype: torch.dtype) -> Tensor:
        num_unpacked[names[layer]] += 1
        return whole(layer, held, dtype)

    monkeypatch.setattr(QuantLinear, "whole", noted)
    with torch.no_grad():
        model(input_ids=IDS, decoder_input_ids=IDS)
    assert any(name.endswith(".wo") for name in names.values())
    assert num_unpacked == dict.fromkeys(names.values(), 1)
