"""Bases that cannot keep the rows of a bin apart are refused, and each one refused shows why it has to be."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3NextConfig,
)

from raylora.data.collate import Batch, attention_mask, collate
from raylora.errors import ModelError
from raylora.model.base.meta import meta_model
from raylora.model.rows.bins import check_bins
from tests.unit.data.made_rows import made_rows

LENGTHS = [12, 12]
NUM_TOKENS = sum(LENGTHS)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
HYBRID = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "hybrid": (
        Qwen3NextConfig(
            **SMALL, **HEADS, **HYBRID, head_dim=8, num_experts=0, layer_types=["linear_attention", "full_attention"]
        ),
        r"do not keep to a mask \(linear_attention",
    ),
    "convolution": (
        Lfm2Config(**SMALL, **HEADS, layer_types=["conv", "full_attention"]),
        r"do not keep to a mask \(conv",
    ),
    "recurrent": (MambaConfig(**SMALL, state_size=8), "do not keep to a mask"),
    "short window": (MistralConfig(**SMALL, **HEADS, sliding_window=6), "sliding_window: 6, below sequence_len: 24"),
    "no positions": (BloomConfig(**SMALL, n_head=4), "takes no position_ids"),
}
TAKEN: dict[str, PretrainedConfig] = {
    "full attention": LlamaConfig(**SMALL, **HEADS),
    "long window": MistralConfig(**SMALL, **HEADS, sliding_window=NUM_TOKENS),
    "unused window": Qwen2Config(**SMALL, **HEADS, use_sliding_window=False, sliding_window=6),
    "capped scores": Gemma2Config(**SMALL, **HEADS, head_dim=8),
}


def logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    mask = attention_mask(batch, torch.float32)
    inputs = {"position_ids": batch.position_ids_BT} | ({} if mask is None else {"attention_mask": mask})
    with torch.no_grad():
        output: torch.Tensor = model(batch.input_ids_BT, **inputs, use_cache=False).logits
    return output


def is_apart(config: PretrainedConfig) -> bool:
    """Whether the second row of a bin gets the logits that it gets alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = made_rows(LENGTHS)
    alone = logits(model, collate([[1]], rows, pad_id=0))
    binned = logits(model, collate([[0, 1]], rows, pad_id=0))[:, LENGTHS[0] :]
    return torch.allclose(binned, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_base_that_mixes_rows_is_refused(name: str):
    config, words = REFUSED[name]
    with pytest.raises(ModelError, match=rf"^sample_packing: .*{words}.*Set sample_packing: false$"):
        check_bins(meta_model(config, torch.float32), NUM_TOKENS)
    try:
        assert not is_apart(config)
    except (RuntimeError, ValueError) as error:
        assert name in ("recurrent", "no positions"), error  # these cannot even run on the mask


@pytest.mark.parametrize("name", TAKEN)
def test_a_base_that_keeps_rows_apart_is_taken(name: str):
    check_bins(meta_model(TAKEN[name], torch.float32), NUM_TOKENS)
    assert is_apart(TAKEN[name])
