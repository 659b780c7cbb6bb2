"""What somebody is told to do with an adapter that cannot go on here can be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import GloraConfig, get_peft_model

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.combining.fit import fitting_layers
from raylora.adapters.layers import deltas
from raylora.adapters.merging.content import content_of
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.errors import ModelError
from raylora.model.source.source import BaseFolder
from tests.unit.adapters.exported_adapters import stored
from tests.unit.adapters.made_adapters import TARGETS, adapted, by_peft, load_model, tensors_of
from tests.unit.train.tiny_run import save_base

BY_PEFT = r"Load it with PEFT's PeftModel, and merge it with PEFT where its type can be$"
USES: dict[str, Callable[[StoredAdapter, BaseFolder, Path], object]] = {
    "merge": lambda adapter, base, out: content_of(adapter, None, base),
    "generate": lambda adapter, base, out: open_session(base, {"a": adapter}, {"dtype": "float32"}),
    "export": lambda adapter, base, out: export_adapter(adapter, Asked("vllm", out, base_name="tiny/llama")),
    "combine": lambda adapter, base, out: fitting_layers([adapter, adapter], "cat"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and over it GLoRA, which takes no layers but PyTorch's own; never written to."""
    folder = tmp_path_factory.mktemp("glora")
    base = save_base(folder / "base")
    torch.manual_seed(1)
    config = GloraConfig(r=4, target_modules=TARGETS, init_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(base), config).save_pretrained(folder / "adapter")
    return folder


@pytest.mark.parametrize("use", USES)
def test_glora_is_left_to_peft(home: Path, tmp_path: Path, use: str):
    base = find_base(BasePlace(str(home / "base")), tmp_path / "cache")
    with pytest.raises(ModelError, match=BY_PEFT) as refused:
        USES[use](read_adapter(str(home / "adapter")), base, tmp_path / "out")
    assert "GLORA" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_peft_merges_glora(home: Path):
    before, merged = tensors_of(home / "base"), by_peft(home / "base", home / "adapter")
    assert all(not torch.equal(merged[name], before[name]) for name in adapted(before))


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("LOHA", r"Merge it: raylora merge here --out FOLDER$"),
        ("LN_TUNING", r"Merge it: raylora merge here --out FOLDER$"),
        ("PROMPT_TUNING", BY_PEFT),
        ("LATER", BY_PEFT),
        ([1], BY_PEFT),
        (None, BY_PEFT),
    ],
)
def test_another_type_is_merged_where_raylora_can(kind: object, way_out: str):
    with pytest.raises(ModelError, match=way_out):
        deltas(stored({"peft_type": kind}, {"model.layers.0.self_attn.q_proj": (8, 8, 4)}))
