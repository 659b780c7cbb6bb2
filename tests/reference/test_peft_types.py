"""Each type of PEFT's that a ``peft:`` block trains, against PEFT alone: ten steps from the same start, its loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_config, get_peft_model
from torch import Tensor, nn

from raylora.model.bank.peft_trial import peft_trial
from raylora.model.base.load import base_on_meta
from raylora.model.base.meta import read_config
from raylora.model.export import adapter_files
from raylora.spec.run import RunSpec
from raylora.train.trainee import Trainee
from tests.reference.naive_lora import base_of, train_plainly
from tests.reference.peft_types import ALL, TYPES, as_much_noise_for_every_token, block_of
from tests.reference.tiny_lora import ADAMW, INT8, NF4, RATES, begun, ran, spec_of, steps_of
from tests.unit.train.tiny_run import save_materials

pytestmark = pytest.mark.slow

BASES: dict[str, dict[str, object]] = {"plain": {}, "nf4": NF4, "int8": INT8}
OWN_FIELDS = {"lora_r": 16, "lora_alpha": 32}
"""At their defaults, as they stand beside a block."""
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])
Trained = Callable[[str, str], tuple[RunSpec, dict[str, Tensor], list[float], list[float], Trainee]]
Plain = Callable[[RunSpec], nn.Module]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("types"), 60, num_hidden_layers=2)


@pytest.fixture(scope="module", autouse=True)
def noise() -> Iterator[None]:
    with as_much_noise_for_every_token():
        yield


@pytest.fixture(scope="module")
def trained(home: Path) -> Trained:
    """A run of ten steps; each is done once, for all that look at it."""

    @cache
    def train(kind: str, base: str) -> tuple[RunSpec, dict[str, Tensor], list[float], list[float], Trainee]:
        spec = spec_of(home, **OWN_FIELDS, **BASES[base], peft=block_of(kind))
        trainee = begun(spec, home)
        start = {name: each.clone() for name, each in trainee.bank.state(0)}
        return spec, start, *ran(trainee, spec, home), trainee

    return train


@pytest.fixture(scope="module")
def plain() -> Plain:
    """The base as transformers loads it, a copy for each that asks: reading and packing take longer than some tests."""

    kept: dict[str, nn.Module] = {}

    def copied(spec: RunSpec) -> nn.Module:
        if spec.quantization not in kept:
            kept[spec.quantization] = base_of(spec)
        return deepcopy(kept[spec.quantization])

    return copied


def in_peft(spec: RunSpec, start: dict[str, Tensor], base: nn.Module) -> nn.Module:
    """PEFT's own model at the start of a run."""
    assert spec.peft is not None
    model = get_peft_model(base, get_peft_config({**spec.peft, "task_type": "CAUSAL_LM"}))
    own = {name: name.replace(".default.", ".").removesuffix(".default") for name in model.state_dict()}
    taken = {name: start[kept] for name, kept in own.items() if kept in start}
    assert {own[name] for name in taken} == start.keys()
    model.load_state_dict(taken, strict=False)
    return model


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", TYPES)
def test_ten_steps_are_those_of_peft(home: Path, trained: Trained, plain: Plain, kind: str, base: str):
    spec, start, losses, norms, trainee = trained(kind, base)
    model = in_peft(spec, start, plain(spec))
    expected, expected_norms = train_plainly(model, steps_of(spec, home), RATES, ADAMW, spec.max_grad_norm)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert trainee.num_trainable(0) == sum(each.numel() for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", TYPES)
def test_pefts_loader_gives_the_same_output(trained: Trained, plain: Plain, kind: str, base: str, tmp_path: Path):
    spec, *_, trainee = trained(kind, base)
    for name, content in adapter_files(trainee.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(plain(spec), tmp_path)
    trainee.train_mode(False)
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, loaded(IDS).logits, rtol=0, atol=2e-5)
        assert not torch.allclose(loaded(IDS).logits, plain(spec)(IDS).logits, atol=1e-3)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", TYPES)
def test_the_driver_counts_what_will_train(home: Path, trained: Trained, kind: str, base: str):
    spec, *_, trainee = trained(kind, base)
    assert spec.peft is not None
    model = base_on_meta(read_config(home / "base"), spec, torch.float32)
    found = peft_trial(model, spec.peft)
    assert found.num_values == trainee.num_trainable(0)
    assert peft_trial(model, spec.peft) == found, "the base is left as it was"


def test_every_type_is_here_or_refused():
    from raylora.model.bank.peft_config import why_not

    assert {kind for kind in ALL if why_not(kind) is None} == TYPES.keys()
