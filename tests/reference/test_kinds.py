"""Each kind of adapter against PEFT's own: ten steps from the same start, and the result in PEFT's loader."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model, set_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.slot import Slot
from raylora.model.bank.packed import PackedBank
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.export import adapter_files
from raylora.model.rows.route import Placed, Span
from raylora.spec.run import RunSpec
from raylora.train.trainee import Trainee
from tests.reference.naive_lora import Optimizer, base_of, train_plainly
from tests.reference.tiny_lora import ADAMW, INT8, NF4, RATES, ours, spec_of, steps_of
from tests.unit.model.tiny import Kept
from tests.unit.train.tiny_run import CPU, save_materials

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_lr_ratio": 4},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "dora-loraplus": {"use_dora": True, "loraplus_lr_ratio": 4},
    "gaussian": {"init_lora_weights": "gaussian"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa_niter": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "vera": {"adapter": "vera", "lora_r": 80, "d_initial": 0.3, "projection_prng_key": 7},
}
BANKS = [("packed", kind) for kind in KINDS] + [
    ("peft", kind) for kind in KINDS if not kind.startswith(("pissa", "olora", "vera"))
]
BASES: dict[str, dict[str, object]] = {"plain": {}, "nf4": NF4}
HELD = {**BASES, "int8": INT8}
TEN_STEPS = [
    *((*pair, base) for base in BASES for pair in BANKS if pair[1] != "pissa_niter"),
    *(("packed", kind, "int8") for kind in ("rslora", "loraplus", "dora", "gaussian", "pissa", "olora", "vera")),
    *(("peft", kind, "int8") for kind in ("rslora", "loraplus", "dora", "gaussian")),
]
"""Not PiSSA by iterations, which begin at what PEFT and raylora draw each for itself."""
LOADED = [*((*pair, base) for base in BASES for pair in BANKS), ("packed", "pissa_niter", "int8")]
Trained = Callable[[str, str, str], tuple[RunSpec, Adapter, list[float], list[float], Trainee]]
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("kinds"), 60, num_hidden_layers=2)


@pytest.fixture(scope="module")
def trained(home: Path) -> Trained:
    """A run of ten steps on a base, with a bank and a kind of adapter; each is done once, for all that look at it."""

    @cache
    def train(base: str, bank: str, kind: str) -> tuple[RunSpec, Adapter, list[float], list[float], Trainee]:
        spec = spec_of(home, adapter_bank=bank, **HELD[base], **KINDS.get(kind, {}))
        return spec, *ours(spec, home)

    return train


def in_peft(spec: RunSpec, start: dict[str, Tensor]) -> nn.Module:
    """PEFT's model at the start of a run; what starts from the base PEFT takes off it itself."""
    if spec.adapter == "vera":
        vera = VeraConfig(
            r=spec.lora_r, target_modules="all-linear", projection_prng_key=spec.projection_prng_key,
            d_initial=spec.d_initial, task_type="CAUSAL_LM",
        )  # fmt: skip
        return get_peft_model(base_of(spec), vera)
    config = LoraConfig(
        r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM",
        use_rslora=spec.use_rslora, use_dora=spec.use_dora, init_lora_weights=spec.init_lora_weights,
    )  # fmt: skip
    model = get_peft_model(base_of(spec), config)
    if not spec.starts_from_base:
        set_peft_model_state_dict(model, start)
    return model


def optimizer_of(spec: RunSpec, model: nn.Module) -> Optimizer:
    """PEFT's own optimizer for LoRA+."""
    if spec.loraplus_lr_ratio == 1:
        return ADAMW

    def make(_: object) -> torch.optim.Optimizer:
        optimizer = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=1.0, loraplus_lr_ratio=spec.loraplus_lr_ratio, loraplus_weight_decay=0.05
        )
        for group in optimizer.param_groups:
            group["rate"] = group["lr"]
        return optimizer

    return make


@pytest.mark.parametrize(("bank", "kind", "base"), TEN_STEPS)
def test_ten_steps_are_those_of_peft(home: Path, trained: Trained, bank: str, kind: str, base: str):
    spec, start, losses, norms, _ = trained(base, bank, kind)
    model = in_peft(spec, start.tensors)
    make = optimizer_of(spec, model)
    expected, expected_norms = train_plainly(model, steps_of(spec, home), RATES, make, spec.max_grad_norm)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    _, _, plain, *_ = trained(base, "packed", "none of them")
    assert losses != pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(("bank", "kind", "base"), LOADED)
def test_pefts_loader_gives_the_same_output_on_the_base_as_it_is(
    trained: Trained, bank: str, kind: str, base: str, tmp_path: Path
):
    spec, *_, trainee = trained(base, bank, kind)
    for name, content in adapter_files(trainee.bank.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec), tmp_path)
    trainee.train_mode(False)
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, loaded(IDS).logits, rtol=0, atol=2e-5)
        assert not torch.allclose(loaded(IDS).logits, base_of(spec)(IDS).logits, atol=1e-2)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["dora", "pissa", "pissa_niter", "olora"])
def test_the_first_pass_is_the_bases(home: Path, base: str, kind: str):
    spec = spec_of(home, **BASES[base], **KINDS[kind])
    *_, trainee = ours(spec, home, rates=[])
    assert all(tensor.abs().max() > 0 for name, tensor in trainee.bank.parameters(0).items() if "lora_A" in name)
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, base_of(spec)(IDS).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
def test_a_dora_layer_is_pefts_with_bias_and_dropout(has_bias: bool, dropout: float):
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=has_bias)
    theirs = PeftLinear(linear, "default", LoraConfig(use_dora=True, lora_dropout=dropout), r=4, lora_alpha=8)
    model = nn.ModuleDict({"layer": FrozenLinear(linear)}).requires_grad_(False)
    bank = PackedBank(model, ("tiny", None), CPU)
    bank.admit(0, Slot(4, 8.0, dropout, 3, use_dora=True), ["layer"])
    mine = bank.parameters(0)
    others = {
        "layer.lora_A": theirs.lora_A["default"].weight,
        "layer.lora_B": theirs.lora_B["default"].weight,
        "layer.lora_magnitude_vector": theirs.lora_magnitude_vector["default"].weight,
    }
    torch.testing.assert_close(mine["layer.lora_magnitude_vector"], others["layer.lora_magnitude_vector"])
    mine["layer.lora_B"].data.normal_()
    mine["layer.lora_magnitude_vector"].data.mul_(torch.rand(40) + 0.5)
    for name, parameter in others.items():
        parameter.data.copy_(mine[name].data)
    x = torch.randn(10, 24, requires_grad=True)
    bank.route([Span(0)])
    if dropout:
        theirs.lora_dropout["default"] = Kept(mask_of(x, bank, dropout))
    weights = torch.randn(10, 40)
    found, wanted = run(lambda: model["layer"](x), mine, x, weights), run(lambda: theirs(x), others, x, weights)
    for ours_, peft in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours_, peft, rtol=1e-4, atol=1e-5)


def mask_of(x: Tensor, bank: PackedBank, dropout: float) -> Tensor:
    """What the layer's dropout makes of ones."""
    tokens = bank._layers["layer"]._tokens(x, [Placed(0, len(x), Span(0))])
    return tokens.of(torch.ones_like(x))


def run(layer: Callable[[], Tensor], trained: dict[str, nn.Parameter], x: Tensor, weights: Tensor) -> list[Tensor]:
    """Output and gradients."""
    y = layer()
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *trained.values()])]
