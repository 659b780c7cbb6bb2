"""Fused experts are told of, and nothing is told of a model whose weights all lie in linear layers."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import LlamaConfig, MixtralConfig, PretrainedConfig

from raylora.model.base.load import base_on_meta
from raylora.model.base.unreached import unreached_weights, warning_of_unreached
from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import estimate

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256,
}  # fmt: skip
MIXTRAL = MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
EXPERTS_BYTES = 4 * 3 * 4 * (3 * 64 * 96)
"""float32, three layers of four experts, each of three matrices."""


def spec(**fields: object) -> RunSpec:
    common = {"base_model": "base", "datasets": [{"path": "rows"}], "sequence_len": 32, "load_in_4bit": True}
    return RunSpec.model_validate(common | fields)


def told(config: PretrainedConfig) -> str | None:
    return warning_of_unreached(base_on_meta(config, spec(), torch.float32))


def test_fused_experts_are_named_and_counted() -> None:
    found = unreached_weights(base_on_meta(MIXTRAL, spec(), torch.float32))
    assert sum(found.values()) == EXPERTS_BYTES
    assert all(name.startswith("model.layers.*.") and "experts" in name for name in found)
    message = told(MIXTRAL)
    assert message is not None
    assert all(name in message for name in found)


def test_linear_layers_alone_are_not_spoken_of() -> None:
    assert told(LlamaConfig(**SHAPE)) is None


def test_an_estimate_says_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("raylora"), "propagate", True)
    estimate(spec(dtype="bfloat16"), MIXTRAL, device="cpu")
    assert any("experts" in record.message for record in caplog.records)
