"""Merged weights against PEFT's merge_and_unload, and what rounding costs against bitsandbytes and plain arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from raylora.adapters.base import BasePlace, open_base
from raylora.adapters.delta import Delta
from raylora.adapters.merging.plan import MergeSettings, plan_merge
from raylora.adapters.merging.rounding import format_of, rounded
from raylora.adapters.stored import read_adapter
from raylora.errors import ModelError, RunFailedError
from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.load import base_on_meta, load_base
from raylora.model.base.meta import read_config
from raylora.spec.fields.holding import FIELDS, PLAIN
from raylora.store.blob import open_store
from tests.unit.adapters.made_adapters import (
    IDS,
    TARGETS,
    adapted,
    assert_answers_as_trained,
    assert_merged,
    load_model,
    merge,
    publish_again,
    replace_tensors,
    save_adapter,
    tensors_of,
)
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.model.tiny import save_tiny
from tests.unit.train.tiny_run import CPU, build_tiny, open_rows, run_steps, save_base, save_materials, tiny_spec

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 32}},
}
LOADED: dict[str, dict[str, object]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
    "fp4": {"load_in_4bit": True, "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("merge") / "adapter")


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_those_of_peft(base: Path, tmp_path: Path, kind: str):
    made = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    merge(made, base, tmp_path / "out")
    assert_merged(tmp_path / "out", base, made)


def test_an_adapter_that_started_from_the_base_is_merged_into_the_base_as_it_is(tmp_path: Path):
    home = save_materials(tmp_path / "home", 40)
    spec = tiny_spec(home / "base", home / "rows.jsonl", init_lora_weights="pissa", lora_target_modules=TARGETS)
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    run_steps(trainee, rows, range(3), rate=1e-3)
    assert_answers_as_trained(trainee, home / "base", tmp_path)


def test_tied_embeddings_stay_one_tensor(tmp_path: Path):
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    assert "lm_head.weight" not in tensors_of(base)
    made = save_adapter(base, tmp_path / "adapter")
    merge(made, base, tmp_path / "out")
    assert_merged(tmp_path / "out", base, made)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(load_model(base), made)(IDS).logits
        torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, wanted, rtol=0, atol=1e-5)


def test_an_update_of_a_head_that_is_the_embedding_too_is_refused(tmp_path: Path, adapter: Path):
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    stored = read_adapter(str(adapter))
    opened = open_base(stored, BasePlace(str(base)), tmp_path / "cache")
    head = Delta("lm_head", torch.ones(1, 64), torch.ones(len(small_tokenizer()), 1), 1.0)
    with pytest.raises(ModelError, match="lm_head shares its weight with the embedding"):
        plan_merge(stored, {"lm_head": head}, opened, MergeSettings())


def test_a_base_in_many_files_gives_the_same_tensors(tmp_path: Path):
    save_tiny(tmp_path / "one")
    save_tiny(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    made = save_adapter(tmp_path / "one", tmp_path / "adapter")
    for name in ("one", "many"):
        merge(made, tmp_path / name, tmp_path / f"from {name}")
    found, wanted = tensors_of(tmp_path / "from many"), tensors_of(tmp_path / "from one")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def bfloat16_base(base: Path, folder: Path) -> Path:
    """The base in bfloat16, but for one norm."""
    load_model(base).to(torch.bfloat16).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    replace_tensors(folder, {"model.norm.weight": tensors_of(folder)["model.norm.weight"].float()})
    return folder


def test_auto_keeps_the_dtype_of_each_tensor_and_rounds_the_sum_once(base: Path, adapter: Path, tmp_path: Path):
    half = bfloat16_base(base, tmp_path / "half")
    merge(adapter, half, tmp_path / "out")
    found, before = tensors_of(tmp_path / "out"), tensors_of(half)
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: tensor.dtype for n, tensor in before.items()}
    assert found["model.norm.weight"].dtype is torch.float32
    matrices = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in adapted(found).items():
        a_RI, b_OR = (matrices[f"base_model.model.{name.replace('weight', m)}.weight"] for m in ("lora_A", "lora_B"))
        assert torch.equal(tensor, (before[name].float() + 2 * (b_OR @ a_RI)).to(torch.bfloat16))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_the_config_says_the_written_dtype_and_no_more_the_name_of_the_base(adapter: Path, tmp_path: Path, field: str):
    copied = save_base(tmp_path / "base")
    fields = json.loads((copied / "config.json").read_text())
    fields.pop("dtype", None)
    fields |= {field: "float32", "_name_or_path": "somebody/base"}
    (copied / "config.json").write_text(json.dumps(fields))
    merge(adapter, copied, tmp_path / "out", dtype="bfloat16")
    del fields["_name_or_path"]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**fields, field: "bfloat16"}
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_weight_too_large_for_float16_is_refused(adapter: Path, tmp_path: Path):
    base = save_base(tmp_path / "base")
    name = "model.layers.1.mlp.up_proj.weight"
    replace_tensors(base, {name: tensors_of(base)[name] * 1e7})
    with pytest.raises(RunFailedError, match=f"{name} has values that are not finite"):
        merge(adapter, base, tmp_path / "out", dtype="float16")


def test_a_row_of_zeros_with_a_magnitude_stays_one():
    delta = Delta("layer", torch.ones(1, 3), torch.tensor([[1.0], [0.0]]), 1.0, torch.tensor([2.0, 1e-19]))
    whole_OI = delta.applied(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(whole_OI[1], torch.zeros(3))
    assert float(whole_OI[0].norm()) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "odd", [{"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "olora"}, {"alora_invocation_tokens": [1]}]
)
def test_an_adapter_that_is_no_sum_over_the_base_is_refused(
    base: Path, adapter: Path, tmp_path: Path, odd: dict[str, object]
):
    uri = tmp_path / "adapter"
    uri.mkdir()
    (uri / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text()) | odd
    (uri / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{next(iter(odd))}.* so it is no W"):
        merge(uri, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def by_hand(word: str, weight: Tensor) -> Tensor:
    """A weight as a base in a format holds it, by bitsandbytes or by the formula."""
    if word == "int8":
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        return (weight / scale).round() * scale
    kind, _, doubled = word.partition("-")
    # In rows of whole blocks: bitsandbytes' kernel for CPUs gives wrong values for others.
    packed = quantize_4bit(weight.reshape(-1, 64), blocksize=64, compress_statistics=bool(doubled), quant_type=kind)
    return dequantize_4bit(*packed).view_as(weight)


@pytest.mark.parametrize("word", [word for word in FIELDS if word != PLAIN])
def test_the_rounding_error_of_the_base_it_was_trained_on(base: Path, adapter: Path, tmp_path: Path, word: str):
    uri = publish_again(adapter, open_store(str(tmp_path / "store")), quantization=word)
    spread = merge(uri, base, tmp_path / "out").rounding_error
    weights = adapted(tensors_of(base)).values()
    wanted = [float((by_hand(word, weight) - weight).norm() / weight.norm()) for weight in weights]
    assert spread is not None
    assert [spread.mean, spread.max] == pytest.approx([sum(wanted) / 9, max(wanted)], rel=1e-4)
    assert_merged(tmp_path / "out", base, adapter)


@pytest.mark.parametrize("about", [{}, {"quantization": "none"}])
def test_without_a_quantized_base_there_is_no_rounding_error(
    base: Path, adapter: Path, tmp_path: Path, about: dict[str, str]
):
    uri = publish_again(adapter, open_store(str(tmp_path / "store")), **about)
    assert merge(uri, base, tmp_path / "out").rounding_error is None


def test_a_format_that_nobody_knows_is_refused(base: Path, adapter: Path, tmp_path: Path):
    uri = publish_again(adapter, open_store(str(tmp_path / "store")), quantization="nf3")
    with pytest.raises(ModelError, match=r"held as 'nf3'. Allowed: none, int8, nf4"):
        merge(uri, base, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LOADED)
def test_requantized_weights_come_back_from_a_quantized_base_as_they_are(
    base: Path, adapter: Path, tmp_path: Path, kind: str, dtype: str
):
    out = tmp_path / "out"
    merge(adapter, base, out, dtype=dtype, requantize=kind)
    spec = tiny_spec(out, tmp_path / "rows.jsonl", dtype=dtype, **LOADED[kind])
    model = base_on_meta(read_config(out), spec, getattr(torch, dtype))
    load_base(model, out, CPU, lambda part: None)
    written = tensors_of(out)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}
    assert len(layers) == 3 * 7
    for name, layer in layers.items():
        assert torch.equal(layer.weight, written[f"{name}.weight"]), name
    assert torch.equal(written["lm_head.weight"], tensors_of(base)["lm_head.weight"].to(getattr(torch, dtype)))


def test_double_quantization_rounds_requantized_weights_again(base: Path, adapter: Path, tmp_path: Path):
    out = tmp_path / "out"
    merge(adapter, base, out, dtype="float32", requantize="nf4")
    twice = LOADED["nf4"] | {"bnb_4bit_use_double_quant": True}
    model = base_on_meta(read_config(out), tiny_spec(out, tmp_path / "rows.jsonl", **twice), torch.float32)
    load_base(model, out, CPU, lambda part: None)
    layer: Any = model.get_submodule("model.layers.0.mlp.up_proj")
    written = tensors_of(out)["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(layer.weight, written)
    torch.testing.assert_close(layer.weight, written, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("kind", LOADED)
def test_what_requantizing_costs(base: Path, adapter: Path, tmp_path: Path, kind: str):
    merge(adapter, base, tmp_path / "exact")
    merged = merge(adapter, base, tmp_path / "out", requantize=kind)
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("exact", "out")]
    assert sizes[0] == sizes[1], "it saves nothing on disk"
    exact, before, written = (adapted(tensors_of(folder)) for folder in (tmp_path / "exact", base, tmp_path / "out"))
    lost = {name: float((written[name] - exact[name]).norm()) for name in exact}
    of_merged = [lost[name] / float(exact[name].norm()) for name in exact]
    over_update = [lost[name] / float((exact[name] - before[name]).norm()) for name in exact]
    for spread, wanted in ((merged.requantize_error, of_merged), (merged.requantize_over_update, over_update)):
        assert spread is not None
        assert [spread.mean, spread.max] == pytest.approx([sum(wanted) / 9, max(wanted)], rel=1e-4)
    torch.testing.assert_close(
        written[next(iter(written))], by_hand(kind, exact[next(iter(written))]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("word", ["nf4-double", "fp4-double"])
def test_values_of_double_quantization_do_not_come_back(base: Path, word: str):
    form = format_of(word)
    assert form is not None
    weight = tensors_of(base)["model.layers.0.self_attn.q_proj.weight"]
    once = rounded(form, weight)
    assert not torch.equal(rounded(form, once), once)
