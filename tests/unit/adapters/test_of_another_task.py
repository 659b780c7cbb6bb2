"""An adapter with a head is told so by whatever works with layers."""

from __future__ import annotations

import pytest
import torch

from raylora.adapters.layers import deltas
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS"])
def test_an_adapter_with_a_head_is_refused_by_its_task(task: str):
    tensors = {"base_model.model.score.weight": torch.zeros(2, 4)}
    config = {"peft_type": "LORA", "task_type": task, "modules_to_save": ["score"], "r": 2, "lora_alpha": 4}
    with pytest.raises(ModelError, match=f"was trained for {task}, with a head beside it. Allowed here: CAUSAL_LM"):
        deltas(StoredAdapter("somewhere", tensors, config, {}))
