"""What an adapter is merged into: the base as LoftQ had it quantized or as it was named before; its chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import NemotronHConfig, NemotronHForCausalLM

from raylora.adapters.layers import deltas
from raylora.adapters.merging.check import wanted_logits
from raylora.adapters.merging.plan import EXACT
from raylora.adapters.merging.rounding import Holding, format_of, rounded
from raylora.adapters.stored import read_adapter
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.errors import ModelError
from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.export import publish_adapter
from raylora.model.rows.route import Span
from raylora.store.blob import open_store
from tests.unit.adapters.made_adapters import (
    IDS,
    TARGETS,
    load_model,
    merge,
    publish_again,
    save_adapter,
    tensors_of,
)
from tests.unit.data.small_tokenizer import PLAIN, small_tokenizer
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("merge") / "adapter")


LOFTQ = {"init_lora_weights": "loftq", "quantization": "nf4-double"}
STARTS = {"init_lora_weights": "loftq", "load_in_4bit": True, "lora_target_modules": TARGETS}


def test_loftq_is_merged_into_the_base_as_it_was_quantized(tmp_path: Path):
    base = save_base(tmp_path / "base")
    trainee = build_tiny(tiny_spec(base, tmp_path / "rows.jsonl", **STARTS))
    uri = publish_adapter(open_store(str(tmp_path / "store")), trainee.bank.export(0), LOFTQ)
    assert merge(uri, base, tmp_path / "out").rounding_error is None
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    with torch.no_grad():
        wanted = trainee.model(IDS).logits
        torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, wanted, rtol=0, atol=1e-4)
    stored = read_adapter(uri)
    form = format_of("nf4-double")
    assert form is not None
    held = Holding(form, torch.float32)
    wanted_logits(deltas(stored), base, held).compare(tmp_path / "out").check(EXACT)
    plain = publish_adapter(open_store(str(tmp_path / "plain")), trainee.bank.export(0), {"quantization": "nf4-double"})
    merge(plain, base, tmp_path / "over whole")
    with torch.no_grad():
        assert not torch.allclose(load_model(tmp_path / "over whole")(IDS).logits, wanted, atol=1e-2)


def test_loftq_of_a_run_in_bfloat16_is_merged_into_the_base_as_that_had_it_quantized(tmp_path: Path):
    """The file is in float32: cast before, some of its values are at other levels, and scales are others."""
    base = save_base(tmp_path / "base")
    trainee = build_tiny(tiny_spec(base, tmp_path / "rows.jsonl", dtype="bfloat16", **STARTS))
    about = LOFTQ | {"dtype": "bfloat16"}
    uri = publish_adapter(open_store(str(tmp_path / "store")), trainee.bank.export(0), about)
    merge(uri, base, tmp_path / "out")
    updates, merged = deltas(read_adapter(uri)), tensors_of(tmp_path / "out")
    for module, update in updates.items():
        layer = trainee.model.get_submodule(module)
        assert isinstance(layer, QuantLinear)
        in_use_OI = layer.format.unpack(layer.packed.data, layer.shape, torch.float32)
        torch.testing.assert_close(merged[f"{module}.weight"] - update.update(), in_use_OI, rtol=0, atol=1e-6)
    plain = publish_adapter(open_store(str(tmp_path / "plain")), trainee.bank.export(0), LOFTQ)
    merge(plain, base, tmp_path / "as float32")
    as_float32 = tensors_of(tmp_path / "as float32")
    assert not any(torch.allclose(as_float32[f"{name}.weight"], merged[f"{name}.weight"]) for name in updates)


def test_loftq_over_nobody_knows_what_is_refused(base: Path, adapter: Path, tmp_path: Path):
    uri = publish_again(adapter, open_store(str(tmp_path / "store")), init_lora_weights="loftq")
    with pytest.raises(ModelError, match="its lineage does not say how that was held"):
        merge(uri, base, tmp_path / "out")


def test_a_chat_template_takes_the_place_of_the_bases(adapter: Path, tmp_path: Path):
    base = save_base(tmp_path / "base")
    told = base / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"chat_template": "{{ 'in the config' }}"}))
    merge(adapter, base, tmp_path / "out", chat_template=PLAIN)
    assert load_tokenizer(tmp_path / "out").chat_template == PLAIN
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert load_tokenizer(base).chat_template != PLAIN


def save_nemotron(folder: Path) -> Path:
    """A base whose files call `backbone` what transformers calls `model` today."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = NemotronHConfig(
        **shape, head_dim=16, layers_block_type=["attention", "mlp"], vocab_size=len(small_tokenizer())
    )
    torch.manual_seed(0)
    NemotronHForCausalLM(config).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def test_layers_that_were_named_otherwise_before_are_merged_under_their_old_names(tmp_path: Path):
    base = save_nemotron(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    merge(adapter, base, tmp_path / "out")
    before, found = tensors_of(base), tensors_of(tmp_path / "out")
    assert found.keys() == before.keys()
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, before[name])}
    assert changed == {f"backbone.layers.{name}_proj.weight" for name in ("0.mixer.q", "1.mixer.down")}
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(load_model(base), adapter)(IDS).logits
        torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, wanted, rtol=0, atol=1e-5)
    wanted_logits(deltas(read_adapter(str(adapter))), base).compare(tmp_path / "out").check(EXACT)


def test_layers_that_were_named_otherwise_before_are_requantized(tmp_path: Path):
    base = save_nemotron(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    merge(adapter, base, tmp_path / "out", requantize="nf4")
    before, found, form = tensors_of(base), tensors_of(tmp_path / "out"), format_of("nf4")
    assert form is not None
    linear = {name for name in found if name.endswith("_proj.weight")}
    assert len(linear) == 6
    assert all(torch.equal(rounded(form, found[name]), found[name]) for name in linear)
    assert not any(torch.equal(found[name], before[name]) for name in linear)
    assert all(torch.equal(found[name], before[name]) for name in found.keys() - linear)
