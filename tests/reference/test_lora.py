"""Ten steps of a run against a naive LoRA and against PEFT from the same start; the adapter in PEFT's own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.export import adapter_files
from raylora.train.build import build
from tests.reference.naive_lora import add_naive_lora, base_of, train_plainly
from tests.reference.tiny_lora import ADAMW, INT8, NF4, RATES, ours, spec_of, steps_of
from tests.unit.train.tiny_run import BASE_NAME, CPU, save_materials

SGD_TIMES = 50
"""Plain gradients are small; at this multiple of the rates the adapter moves as far."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("lora"), 60, num_hidden_layers=2)


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("bank", ["packed", "peft"])
@pytest.mark.parametrize("base", [{}, NF4, INT8], ids=["plain", "nf4", "int8"])
def test_ten_steps_are_those_of_a_naive_lora(home: Path, base: dict[str, object], bank: str, optimizer: object):
    spec = spec_of(home, adapter_bank=bank, **base)
    times = SGD_TIMES if optimizer else 1
    start, losses, norms, trainee = ours(spec, home, optimizer, times)
    model = base_of(spec)
    add_naive_lora(model, start.tensors, spec.lora_alpha)
    rates = [times * rate for rate in RATES]
    expected, expected_norms = train_plainly(model, steps_of(spec, home), rates, optimizer or ADAMW, spec.max_grad_norm)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert max(float(t.abs().max()) for name, t in trainee.bank.export(0).tensors.items() if "lora_B" in name) > 1e-2
    if optimizer is not None:  # Adam turns a gradient of nothing into a step of full size, whatever its sign
        for name, tensor in trainee.bank.export(0).tensors.items():
            module, matrix = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
            naive = model.get_submodule(module)
            other = naive.a_RI if matrix == "lora_A" else naive.b_OR
            torch.testing.assert_close(tensor, other.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", [{}, NF4, INT8], ids=["plain", "nf4", "int8"])
def test_ten_steps_are_those_of_peft(home: Path, base: dict[str, object]):
    spec = spec_of(home, **base)
    start, losses, norms, _ = ours(spec, home)
    config = LoraConfig(r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base_of(spec), config)
    set_peft_model_state_dict(model, start.tensors)
    expected, expected_norms = train_plainly(model, steps_of(spec, home), RATES, ADAMW, spec.max_grad_norm)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)


@pytest.mark.parametrize("bank", ["packed", "peft"])
@pytest.mark.parametrize("base", [{}, NF4], ids=["plain", "nf4"])
def test_peft_loads_the_adapter_bit_for_bit(home: Path, base: dict[str, object], bank: str, tmp_path: Path):
    spec = spec_of(home, adapter_bank=bank, **base)
    *_, trainee = ours(spec, home)
    adapter = trainee.bank.export(0)
    for name, content in adapter_files(adapter).items():
        (tmp_path / name).write_bytes(content)
    assert_same(safetensors.torch.load_file(tmp_path / "adapter_model.safetensors"), adapter.tensors)
    loaded = PeftModel.from_pretrained(base_of(spec), tmp_path)
    state = get_peft_model_state_dict(loaded)
    assert_same(
        {f"base_model.model.{name.removeprefix('base_model.model.')}": t for name, t in state.items()}, adapter.tensors
    )
    ids = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])
    trainee.train_mode(False)
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(ids).logits, loaded(ids).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(loaded.get_base_model()(ids).logits, base_of(spec)(ids).logits, atol=1e-2)


def test_pefts_modules_sit_on_packed_layers(home: Path):
    trainee = build(spec_of(home, adapter_bank="peft", **NF4), home / "base", BASE_NAME, CPU)
    layer = trainee.model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer.base_layer, QuantLinear)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
