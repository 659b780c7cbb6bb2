"""The check of a merged model: near to base and adapter where it was merged, refused where it is another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from raylora.adapters.delta import deltas
from raylora.adapters.merge_check import PROMPTS, Agreement, check_memory, wanted_logits
from raylora.adapters.stored import read_adapter
from raylora.errors import InputError, RunFailedError
from tests.unit.adapters.made_adapters import load_model, merge, replace_tensors, save_adapter, tensors_of
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.tiny_run import save_base

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("check") / "base")


def compared(adapter: Path, base: Path, out: Path) -> Agreement:
    stored = read_adapter(str(adapter))
    return wanted_logits(stored, deltas(stored), base).compare(out)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_agrees(base: Path, tmp_path: Path, kind: str):
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    merge(adapter, base, tmp_path / "out")
    found = compared(adapter, base, tmp_path / "out")
    assert found.max_difference < 1e-4
    assert found.argmax_agrees
    found.check(is_exact=True)
    theirs = PeftModel.from_pretrained(load_model(base), adapter)
    with torch.no_grad():
        rows = [torch.tensor([small_tokenizer()(prompt)["input_ids"]]) for prompt in PROMPTS]
        largest = max(float(theirs(row).logits.abs().max()) for row in rows)
    assert found.largest_logit == pytest.approx(largest, rel=1e-4)


def test_rounding_to_bfloat16_is_told_and_let_pass(base: Path, tmp_path: Path):
    adapter = save_adapter(base, tmp_path / "adapter")
    merge(adapter, base, tmp_path / "out", dtype="bfloat16")
    found = compared(adapter, base, tmp_path / "out")
    assert found.max_difference > 1e-4
    found.check(is_exact=False)


def test_a_base_that_does_not_fit_into_memory_is_refused():
    check_memory(1_000)
    with pytest.raises(InputError, match=r"1,000,000.0 GB of memory, and .* are free\. .* --no-check"):
        check_memory(10**15)


def test_another_model_is_refused(base: Path, tmp_path: Path):
    adapter = save_adapter(base, tmp_path / "adapter")
    merge(adapter, base, tmp_path / "out")
    name = "model.layers.1.mlp.down_proj.weight"
    replace_tensors(tmp_path / "out", {name: tensors_of(tmp_path / "out")[name] * 1.5})
    with pytest.raises(RunFailedError, match=r"differ from those of base and adapter by .* nothing was kept"):
        compared(adapter, base, tmp_path / "out").check(is_exact=True)


@pytest.mark.parametrize("is_exact", [True, False])
def test_logits_that_are_not_finite_are_refused(is_exact: bool):
    with pytest.raises(RunFailedError, match="differ"):
        Agreement(float("nan"), 1.0, False).check(is_exact)
