"""AdaLoRA against PEFT's own model and allocator: twelve steps from the same start, and the result in PEFT's loader."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from raylora.model.adapter.bank import Adapter
from raylora.model.export import adapter_files
from raylora.spec.fields.phases import phases
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.step import StepResult
from raylora.train.trainee import Trainee
from tests.reference.naive_lora import base_of
from tests.reference.tiny_lora import ADAMW, INT8, NF4, spec_of
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, save_materials, solo_step

pytestmark = pytest.mark.slow

RATES = [0.0, 4e-3, 5e-3, 5e-3, 4e-3, 4e-3, 4e-3, 3e-3, 3e-3, 2e-3, 2e-3, 1e-3]
ADALORA = {"adapter": "adalora", "lora_r": 6, "target_r": 2, "lora_alpha": 48}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "phases": {"tinit": 3, "tfinal": 4, "deltaT": 2, "orth_reg_weight": 0.1},
    "no last phase": {"tinit": 0, "tfinal": 0, "max_grad_norm": 0},
    "nf4": NF4,
    "int8": INT8,
}
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])
Trained = Callable[[str], tuple[RunSpec, Adapter, list[StepResult], Trainee]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("adalora"), 60, num_hidden_layers=2)


@pytest.fixture(scope="module")
def trained(home: Path) -> Trained:
    """A run of all steps, its start and what each step did; each is done once, for all that look at it."""

    @cache
    def train(case: str) -> tuple[RunSpec, Adapter, list[StepResult], Trainee]:
        spec = spec_of(home, **{**ADALORA, "max_steps": len(RATES), **CASES[case]})
        rows, _ = open_rows(spec, home / "cache")
        trainee = build(spec, home / "base", BASE_NAME, CPU)
        trainee.begin(0, spec, len(RATES))
        start = trainee.bank.export(0)
        results = [solo_step(trainee, rows.step(step, 0, 1), step, rate) for step, rate in enumerate(RATES)]
        return spec, start, results, trainee

    return train


def in_peft(spec: RunSpec, start: dict[str, Tensor]) -> Any:
    """PEFT's model at the start of a run; its forward pass adds the regulariser, in every micro-batch of a step."""
    tinit, tfinal = phases(spec, len(RATES))
    config = AdaLoraConfig(
        init_r=spec.lora_r, target_r=spec.target_r, lora_alpha=spec.lora_alpha, target_modules="all-linear",
        tinit=tinit, tfinal=tfinal, deltaT=spec.deltaT, total_step=len(RATES), task_type="CAUSAL_LM",
        orth_reg_weight=spec.orth_reg_weight / spec.gradient_accumulation_steps,
    )  # fmt: skip
    model = get_peft_model(base_of(spec), config)
    assert not set_peft_model_state_dict(model, start).unexpected_keys
    return model


def train_in_peft(model: Any, spec: RunSpec, home: Path) -> tuple[list[float], list[float]]:
    """Whole losses and gradient norms; ranks are allocated after the update, by the gradients that led to it."""
    rows, _ = open_rows(spec, home / "cache")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, norms = ADAMW(trained), [], []
    for step, rate in enumerate(RATES):
        batches = rows.step(step, 0, 1)
        num_labels = sum(int((batch.labels_BT != -100).sum()) for batch in batches)
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            labels = {"labels": batch.labels_BT, "shift_labels": batch.labels_BT, "num_items_in_batch": num_labels}
            loss = model(input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, **labels).loss
            loss.backward()
            losses[-1] += loss.item()
        norms.append(float(nn.utils.clip_grad_norm_(trained, spec.max_grad_norm or float("inf"))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
    return losses, norms


@pytest.mark.parametrize("case", CASES)
def test_twelve_steps_are_those_of_peft(home: Path, trained: Trained, case: str):
    spec, start, results, trainee = trained(case)
    model = in_peft(spec, start.tensors)
    losses, norms = train_in_peft(model, spec, home)
    assert [result.loss + result.metrics["orth"] for result in results] == pytest.approx(losses, abs=1e-5)
    assert [result.grad_norm for result in results] == pytest.approx(norms, rel=1e-4)
    theirs = model.peft_config["default"].rank_pattern
    found = trainee.export(0)
    assert found.config["rank_pattern"] == {name.removesuffix(".default"): left for name, left in theirs.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_budget_is_kept_and_shared_out(trained: Trained, case: str):
    spec, _, _, trainee = trained(case)
    ranks = trainee.ranks_left(0)
    assert len(ranks) == len(trainee.bank.export(0).layers)
    assert sum(ranks.values()) == spec.target_r * len(ranks)
    assert len(set(ranks.values())) > 1, "layers get what they need, not all the same"


@pytest.mark.parametrize("case", CASES)
def test_pefts_loader_gives_the_same_output(trained: Trained, case: str, tmp_path: Path):
    spec, _, _, trainee = trained(case)
    for name, content in adapter_files(trainee.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec), tmp_path)
    sizes = {name: len(each) for name, each in loaded.named_parameters() if "lora_E" in name}
    assert sum(sizes.values()) == spec.target_r * len(sizes)
    trainee.train_mode(False)
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, loaded(IDS).logits, rtol=0, atol=2e-5)
        assert not torch.allclose(loaded(IDS).logits, base_of(spec)(IDS).logits, atol=1e-3)


def test_the_first_pass_is_the_bases(home: Path):
    spec = spec_of(home, **ADALORA)
    trainee = build(spec, home / "base", BASE_NAME, CPU)
    for name, parameter in trainee.bank.parameters(0).items():
        assert float(parameter.std()) == (0 if name.endswith("lora_E") else pytest.approx(0.02, rel=0.3))
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, base_of(spec)(IDS).logits, rtol=0, atol=2e-5)
