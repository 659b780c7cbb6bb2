"""No config of an adapter crashes what works with one: it is exported and merged, or refused in raylora's words."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.serving.servers import SERVERS
from raylora.adapters.stored import CONFIG, TENSORS, read_adapter
from tests.unit.adapters.made_adapters import merge
from tests.unit.hostile.reading import readable_or_refused
from tests.unit.train.tiny_run import save_base

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "owner/base",
    "revision": None,
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "modules_to_save": None,
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
    "fan_in_fan_out": False,
    "layers_to_transform": None,
    "lora_dropout": 0.0,
}
VALUES = [
    *(5, -1, 0, 1.5, 10**400, "x", "../x", None, True),
    *([], {}, [1], [[]], {"a": [1]}, {"(": 1}, {"a": "b"}),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("hostile") / "base")


@pytest.mark.parametrize("field", FIELDS)
def test_whatever_a_field_holds(base: Path, tmp_path: Path, field: str):
    folder, out = tmp_path / "adapter", tmp_path / "out"
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    matrices = {f"{name}.lora_A.weight": torch.ones(2, 64), f"{name}.lora_B.weight": torch.ones(64, 2)}
    save_file(matrices, folder / TENSORS)
    for value in VALUES:
        (folder / CONFIG).write_text(json.dumps(FIELDS | {field: value}))
        for word, max_rank in product(SERVERS.keys() - {"gguf"}, (None, 1)):
            readable_or_refused(partial(exported, folder, Asked(word, out, max_rank)))
            shutil.rmtree(out, ignore_errors=True)
        readable_or_refused(lambda: merge(folder, base, out))
        shutil.rmtree(out, ignore_errors=True)


def exported(folder: Path, asked: Asked) -> None:
    export_adapter(read_adapter(str(folder)), asked)
