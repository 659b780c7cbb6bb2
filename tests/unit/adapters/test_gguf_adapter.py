"""The GGUF file, read back by the format's own reader: keys, names, shapes, and values in llama.cpp's order of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from raylora.adapters.base import BasePlace
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.gguf_file import reordered
from raylora.adapters.serving.served_folder import export_adapter
from raylora.errors import InputError
from tests.unit.adapters.exported_adapters import BASE_NAME, PATTERNS, adapted, saved, stored, updates_of
from tests.unit.model.tiny import in_llama_cpps_order, save_tiny, write_gguf
from tests.unit.train.tiny_run import save_opt

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 48}
Q, HEAD = "model.layers.0.self_attn.q_proj", "lm_head"
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
OTHERS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, num_attention_heads=4, num_key_value_heads=2)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, **HEADS)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SHAPE, **HEADS)),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_tiny(folder)
    return folder


def exported(model: Any, home: Path, base: Path, **words: Any) -> gguf.GGUFReader:
    adapter = saved(model, home / "store")
    written = export_adapter(adapter, Asked("gguf", home / "out", place=BasePlace(str(base)), **words))
    assert sorted(written.files) == ["README.md", "adapter.gguf"]
    return gguf.GGUFReader(home / "out" / "adapter.gguf")


def tensors_of(reader: gguf.GGUFReader) -> dict[str, Tensor]:
    return {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}


def test_keys_names_and_shapes_are_those_that_llama_cpp_loads(base: Path, tmp_path: Path):
    reader = exported(adapted(base, target_modules=ALL), tmp_path, base)
    said = {key: field.contents() for key, field in reader.fields.items()}
    wanted = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.base_model.count": 1,
        "general.base_model.0.name": BASE_NAME,
    }
    assert said | wanted == said
    sizes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    sizes |= {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)}
    # The format counts dimensions from the fastest.
    shapes = {f"blk.{n}.{NAMES[kind]}.weight.lora_a": [sizes[kind][1], 4] for n in (0, 1) for kind in ALL}
    shapes |= {f"blk.{n}.{NAMES[kind]}.weight.lora_b": [4, sizes[kind][0]] for n in (0, 1) for kind in ALL}
    assert {tensor.name: tensor.shape.tolist() for tensor in reader.tensors} == shapes
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}


@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, PATTERNS], ids=["plain", "rslora", "patterns"])
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_base_in_llama_cpps_order_with_the_update_is_the_merged_weight_in_that_order(
    base: Path, tmp_path: Path, kind: str, fields: dict[str, Any]
):
    if kind == "mistral":
        base = tmp_path / "mistral"
        MistralForCausalLM(MistralConfig(**SHAPE, **HEADS)).save_pretrained(base)
    model = adapted(base, target_modules=ALL, **fields)
    reader = exported(model, tmp_path, base)
    tensors, alpha = tensors_of(reader), reader.fields["adapter.lora.alpha"].contents()
    weights = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters())
    updates = updates_of(model)
    assert len(updates) == 14
    for module, update_OI in updates.items():
        *_, block, _, last = module.split(".")
        name = f"blk.{block}.{NAMES[last]}.weight"
        a_RI, b_OR = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        weight_OI = weights[f"{module}.weight"].detach()
        merged_OI = weight_OI + update_OI
        if last in ("q_proj", "k_proj"):
            num_heads = 4 if last == "q_proj" else 2
            weight_OI, merged_OI = (in_llama_cpps_order(each, num_heads) for each in (weight_OI, merged_OI))
        found_OI = weight_OI + alpha / b_OR.shape[1] * (b_OR @ a_RI)
        torch.testing.assert_close(found_OI, merged_OI, rtol=0, atol=1e-5)


def test_rows_are_in_the_order_that_transformers_undoes_when_it_reads_a_base(tmp_path: Path):
    in_file = write_gguf(tmp_path / "base.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="base.gguf", dtype=torch.float32)
    attention = model.model.layers[0].self_attn
    for layer, num_heads, name in ((attention.q_proj, 2, "attn_q"), (attention.k_proj, 1, "attn_k")):
        as_stored = torch.from_numpy(in_file[f"blk.0.{name}.weight"])
        torch.testing.assert_close(reordered(layer.weight.detach(), num_heads), as_stored, rtol=0, atol=1e-6)
        assert not torch.equal(layer.weight.detach(), as_stored)


def test_a_base_that_is_a_gguf_file_itself_says_where_its_layers_are(tmp_path: Path):
    write_gguf(tmp_path / "base.gguf")
    adapter = stored({}, {Q: (32, 32, 4), "model.layers.0.mlp.down_proj": (32, 48, 4)})
    export_adapter(adapter, Asked("gguf", tmp_path / "out", place=BasePlace(str(tmp_path / "base.gguf"))))
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    names = {f"blk.0.{name}.weight.lora_{matrix}" for name in ("attn_q", "ffn_down") for matrix in "ab"}
    assert {tensor.name for tensor in reader.tensors} == names


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_keep_the_order_of_their_rows(tmp_path: Path, kind: str):
    made, config = OTHERS[kind]
    made(config).save_pretrained(tmp_path / "base")
    model = adapted(tmp_path / "base")
    reader = exported(model, tmp_path, tmp_path / "base")
    tensors = tensors_of(reader)
    assert reader.fields["general.architecture"].contents() == kind
    for module, update_OI in updates_of(model).items():
        *_, block, _, last = module.split(".")
        name = f"blk.{block}.{NAMES[last]}.weight"
        found_OI = 8 / 4 * (tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"])
        torch.testing.assert_close(found_OI, update_OI, rtol=0, atol=1e-5)


def test_a_smaller_rank_is_the_files_rank(base: Path, tmp_path: Path):
    reader = exported(adapted(base), tmp_path, base, max_rank=2)
    assert {tensor.shape.tolist()[1] for tensor in reader.tensors if tensor.name.endswith("lora_a")} == {2}
    assert reader.fields["adapter.lora.alpha"].contents() == 4.0


def test_the_card_says_how_llama_cpp_loads_it(base: Path, tmp_path: Path):
    exported(adapted(base), tmp_path, base)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "llama-server --model BASE.gguf --lora ./adapter.gguf" in text
    assert "library_name: gguf" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("shapes", "fields", "message"),
    [
        ({"model.layers.7.mlp.up_proj": (48, 32, 4)}, {}, "the base has no linear layer model.layers.7.mlp.up_proj"),
        ({Q: (64, 32, 4)}, {}, "layers of other shapes than the base's: .*64 x 32, base 32 x 32"),
        ({HEAD: (64, 32, 4)}, {"tie_word_embeddings": True}, "lm_head shares its weight with the embedding"),
    ],
)
def test_layers_that_have_no_place_in_the_base_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, int, int]], fields: dict[str, Any], message: str
):
    save_tiny(tmp_path / "base", **fields)
    asked = Asked("gguf", tmp_path / "out", place=BasePlace(str(tmp_path / "base")))
    with pytest.raises(InputError, match=f"--for gguf: {message}"):
        export_adapter(stored({}, shapes), asked)
    assert not (tmp_path / "out").exists()


def test_an_architecture_whose_conversion_is_not_known_is_refused_with_the_others(tmp_path: Path):
    save_opt(tmp_path / "base")
    asked = Asked("gguf", tmp_path / "out", max_rank=0, place=BasePlace(str(tmp_path / "base")))
    with pytest.raises(InputError) as refused:
        export_adapter(stored({}, {"model.decoder.layers.0.fc1": (48, 32, 4)}), asked)
    assert "model_type 'opt'. Allowed: llama, mistral, qwen2" in str(refused.value)
    assert "--max-rank: got 0" in str(refused.value)
