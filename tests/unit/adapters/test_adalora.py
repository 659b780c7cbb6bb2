"""AdaLoRA as PEFT saves it: read, answered with, merged and exported to what it computes in PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.layers import deltas
from raylora.adapters.merging.check import wanted_logits
from raylora.adapters.merging.plan import EXACT
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.slots import seat_of
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options
from raylora.errors import ModelError
from tests.unit.adapters.made_adapters import by_peft, merge, tensors_of
from tests.unit.adapters.peft_saved import said_by_peft
from tests.unit.train.tiny_run import save_base

CHAT = [{"role": "user", "content": "the model reads a question"}]
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])
GONE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("adalora") / "base")


def save_adalora(base: Path, folder: Path) -> Path:
    """Save an adapter with some ranks at each layer but for one, which has none."""
    torch.manual_seed(1)
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM",
        total_step=10,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    pattern: dict[str, list[bool]] = {}
    for name, parameter in model.base_model.model.named_parameters():
        if ".lora_" not in name:
            continue
        parameter.data.normal_(std=0.5)
        if "lora_E" in name:
            left = [GONE not in name and rank <= len(pattern) % 4 for rank in range(4)]
            pattern[name] = left
            parameter.data[~torch.tensor(left)] = 0
    model.peft_config["default"].rank_pattern = pattern
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    return save_adalora(base, base.parent / "adapter")


@pytest.fixture
def adapter(folder: Path) -> StoredAdapter:
    return read_adapter(str(folder))


def test_updates_are_pefts(base: Path, folder: Path, adapter: StoredAdapter):
    found = deltas(adapter)
    loaded = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), folder).base_model.model
    assert len(found) == 9 and not found[GONE].update().any()
    assert {delta.r for delta in found.values()} == {1, 2, 3, 4}
    for module, delta in found.items():
        torch.testing.assert_close(delta.update(), loaded.get_submodule(module).get_delta_weight("default").detach())


def test_it_answers_as_with_peft(base: Path, folder: Path, adapter: StoredAdapter):
    place = find_base(BasePlace(str(base)), base.parent / "cache")
    session = open_session(place, {"adalora": adapter}, {"dtype": "float32"})
    said = session.answer("adalora", CHAT, Options(max_new_tokens=12)).text
    assert said == said_by_peft(base, folder, CHAT, 12)
    assert seat_of(adapter).settings.r == 4


def test_it_is_merged(base: Path, folder: Path, adapter: StoredAdapter, tmp_path: Path):
    merge(folder, base, tmp_path / "out")
    wanted = by_peft(base, folder)
    for name, tensor in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    agreement = wanted_logits(deltas(adapter), base).compare(tmp_path / "out")
    agreement.check(EXACT)
    assert agreement.argmax_agrees


@pytest.mark.parametrize(("word", "kind"), [("vllm", "LORA"), ("lorax", "LORA"), ("peft", "ADALORA")])
def test_it_is_exported_as_lora_where_a_server_knows_no_other(
    base: Path, folder: Path, adapter: StoredAdapter, tmp_path: Path, word: str, kind: str
):
    written = export_adapter(adapter, Asked(word, tmp_path / "out", base_name="tiny/llama"))
    config: dict[str, Any] = json.loads((written.path / "adapter_config.json").read_text())
    assert config["peft_type"] == kind
    wanted = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), folder)
    found = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), written.path)
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, wanted(IDS).logits, rtol=1e-4, atol=1e-4)


def test_values_that_are_missing_are_told(folder: Path, tmp_path: Path):
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_E"]
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    with pytest.raises(ModelError, match=r"lacks a matrix, .* at model\.layers\.1\.self_attn\.v_proj"):
        deltas(read_adapter(str(tmp_path)))
