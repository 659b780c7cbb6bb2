"""What configs of transformers say that their models draw by chance in training."""

from __future__ import annotations

import pytest
from transformers import (
    BertConfig,
    BioGptConfig,
    DbrxConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhimoeConfig,
    PretrainedConfig,
    RobertaConfig,
)

from raylora.model.rows.own_dropout import own_dropout


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (OPTConfig(layerdrop=0.05), "dropout: 0.1, layerdrop: 0.05;"),
        (LlamaConfig(attention_dropout=0.1), "attention_dropout: 0.1;"),
        (BioGptConfig(), "attention_probs_dropout_prob: 0.1"),
        (PhimoeConfig(router_jitter_noise=0.01), "router_jitter_noise: 0.01"),
        (DbrxConfig(attn_config={"attn_pdrop": 0.2}), "attn_pdrop: 0.2"),
    ],
    ids=["opt", "llama", "biogpt", "router", "nested"],
)
def test_a_base_that_draws_names_the_fields(config: PretrainedConfig, named: str):
    reason = own_dropout(config)
    assert reason is not None and named in reason


@pytest.mark.parametrize("config", [BertConfig(), RobertaConfig()], ids=["bert", "roberta"])
def test_what_is_drawn_for_each_row_by_itself_is_none(config: PretrainedConfig):
    assert config.hidden_dropout_prob == 0.1
    assert own_dropout(config) is None
    assert own_dropout(type(config)(is_decoder=True)) is not None


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        GPTNeoXConfig(classifier_dropout=0.1),
        GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, summary_first_dropout=0.1),
    ],
    ids=["none", "of a classifier", "of a summary"],
)
def test_dropout_that_no_language_model_runs_is_none(config: PretrainedConfig):
    assert own_dropout(config) is None
