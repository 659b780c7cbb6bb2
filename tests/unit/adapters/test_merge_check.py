"""The check of a merged model: near to base and adapter where it was merged, refused where it is another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from raylora.adapters.layers import deltas
from raylora.adapters.merging.check import PROMPTS, Agreement, wanted_logits
from raylora.adapters.merging.plan import EXACT, OF_16_BITS
from raylora.adapters.stored import read_adapter
from raylora.errors import RunFailedError
from raylora.model.base.load import blocks, load_in_turn
from raylora.model.base.meta import meta_model, read_config
from tests.unit.adapters.made_adapters import IDS, load_model, merge, replace_tensors, save_adapter, tensors_of
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
    return wanted_logits(deltas(stored), base).compare(out)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_agrees(base: Path, tmp_path: Path, kind: str):
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    merge(adapter, base, tmp_path / "out")
    found = compared(adapter, base, tmp_path / "out")
    assert found.max_difference < 1e-4
    assert found.argmax_agrees
    found.check(EXACT)
    theirs = PeftModel.from_pretrained(load_model(base), adapter)
    wanted = wanted_logits(deltas(read_adapter(str(adapter))), base)
    assert len(wanted.logits) == len(PROMPTS)
    for prompt, logits in zip(PROMPTS, wanted.logits, strict=True):
        with torch.no_grad():
            by_peft = theirs(torch.tensor([small_tokenizer()(prompt)["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, by_peft, rtol=0, atol=1e-4)
    assert found.largest_logit == max(float(logits.abs().max()) for logits in wanted.logits)


def test_rounding_to_bfloat16_is_told_and_let_pass(base: Path, tmp_path: Path):
    adapter = save_adapter(base, tmp_path / "adapter")
    merge(adapter, base, tmp_path / "out", dtype="bfloat16")
    found = compared(adapter, base, tmp_path / "out")
    assert found.max_difference > 1e-4
    found.check(OF_16_BITS)
    with pytest.raises(RunFailedError, match="differ"):
        found.check(found.max_difference / found.largest_logit / 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", EXACT), ("bfloat16", OF_16_BITS)])
def test_another_model_is_refused(base: Path, tmp_path: Path, dtype: str, tolerance: float):
    adapter = save_adapter(base, tmp_path / "adapter")
    merge(adapter, base, tmp_path / "out", dtype=dtype)
    name = "model.layers.1.mlp.down_proj.weight"
    replace_tensors(tmp_path / "out", {name: tensors_of(tmp_path / "out")[name] * 1.5})
    with pytest.raises(RunFailedError, match=r"differ from those of base and adapter by .* nothing was kept"):
        compared(adapter, base, tmp_path / "out").check(tolerance)


@pytest.mark.parametrize("tolerance", [EXACT, None])
def test_logits_that_are_not_finite_are_refused(tolerance: float | None):
    with pytest.raises(RunFailedError, match="differ"):
        Agreement(float("nan"), 1.0, False).check(tolerance)


def test_what_nobody_can_say_is_only_told():
    Agreement(1.0, 1.0, False).check(None)


def test_dora_on_layers_with_a_bias_agrees(tmp_path: Path):
    base = save_base(tmp_path / "base", attention_bias=True)
    biases = {name: torch.randn_like(each) for name, each in tensors_of(base).items() if name.endswith("bias")}
    assert len(biases) == 3 * 4
    replace_tensors(base, biases)
    adapter = save_adapter(base, tmp_path / "adapter", use_dora=True)
    merge(adapter, base, tmp_path / "out")
    compared(adapter, base, tmp_path / "out").check(EXACT)


def test_blocks_are_there_only_while_they_run(base: Path):
    model = meta_model(read_config(base), torch.float32)
    held: list[int] = []
    load_in_turn(model, base, torch.device("cpu"), lambda part: held.append(num_blocks_held(model)))
    assert (held, num_blocks_held(model)) == ([0], 0)
    for _ in range(2):
        with torch.no_grad():
            found = model.eval()(IDS).logits
            torch.testing.assert_close(found, load_model(base)(IDS).logits, rtol=0, atol=1e-5)
    assert (held, num_blocks_held(model)) == ([0, *[1] * 6], 0)


def num_blocks_held(model: PreTrainedModel) -> int:
    return sum(not any(parameter.is_meta for parameter in block.parameters()) for block in blocks(model).values())
