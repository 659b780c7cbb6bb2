"""Batches: shifted labels, positions, padding, and rows of a bin that never see each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PretrainedConfig, PreTrainedModel

from raylora.data.collate import Batch, attention_mask, collate, filler_batch
from raylora.model.rows.bins import check_bins
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.made_rows import made_rows

LENGTHS = [5, 9, 3, 14, 2, 7]


SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
# One whose attention takes the mask in a kernel, one that caps its scores before it adds the mask.
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, attn_implementation="sdpa"),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=40, attn_logit_softcapping=2.0, attn_implementation="eager"),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    check_bins(model, sum(LENGTHS))
    return model


def token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The loss at each position, 0 where there is none. Shape: [B, T]."""
    with torch.no_grad():
        logits_BTV = model(
            batch.input_ids_BT, position_ids=batch.position_ids_BT, attention_mask=attention_mask(batch, torch.float32)
        ).logits
    return torch.nn.functional.cross_entropy(
        logits_BTV.transpose(1, 2), batch.labels_BT, ignore_index=IGNORED, reduction="none"
    )


def losses_by_row(model: PreTrainedModel, batch: Batch) -> dict[int, torch.Tensor]:
    losses_BT = token_losses(model, batch)
    return {
        row: losses_BT[line, batch.segment_ids_BT[line] == segment]
        for line, rows in enumerate(batch.row_ids)
        for segment, row in enumerate(rows, start=1)
    }


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_labels_are_the_next_token_of_the_same_row(bins: list[list[int]]):
    rows = made_rows(LENGTHS)
    batch = collate(bins, rows, pad_id=63)
    num_tokens = max(sum(LENGTHS[row] for row in line) for line in bins)
    assert batch.input_ids_BT.shape == (len(bins), num_tokens)
    for line, held in enumerate(bins):
        start = 0
        for segment, row in enumerate(held, start=1):
            ids, learned = rows.tokens(row)
            at = slice(start, start + len(ids))
            assert batch.input_ids_BT[line, at].tolist() == ids.tolist()
            assert batch.position_ids_BT[line, at].tolist() == list(range(len(ids)))
            assert set(batch.segment_ids_BT[line, at].tolist()) == {segment}
            expected = [int(token) if learn else IGNORED for token, learn in zip(ids[1:], learned[1:], strict=True)]
            assert batch.labels_BT[line, at].tolist() == [*expected, IGNORED]
            start += len(ids)
        assert set(batch.input_ids_BT[line, start:].tolist()) <= {63}
        assert set(batch.labels_BT[line, start:].tolist()) <= {IGNORED}
        assert set(batch.segment_ids_BT[line, start:].tolist()) <= {0}
    assert batch.num_tokens == sum(LENGTHS[row] for line in bins for row in line)
    assert batch.num_label_tokens == sum(int(rows.tokens(row)[1][1:].sum()) for line in bins for row in line)


@pytest.mark.parametrize("bins", [[[0, 1, 2], [3, 4], [5]], [[0, 1, 2, 3, 4, 5]], [[4, 0], [2, 5, 1, 3]]])
def test_losses_of_binned_rows_are_those_of_the_rows_alone(model: PreTrainedModel, bins: list[list[int]]):
    rows = made_rows(LENGTHS)
    binned = losses_by_row(model, collate(bins, rows, pad_id=0))
    padded = losses_by_row(model, collate([[row] for row in range(6)], rows, pad_id=0))
    assert attention_mask(collate([[0], [1]], rows, pad_id=0), torch.float32) is None
    for row in range(6):
        alone = losses_by_row(model, collate([[row]], rows, pad_id=0))[row]
        assert alone.count_nonzero() > 0
        torch.testing.assert_close(binned[row], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(padded[row], alone, rtol=0, atol=1e-5)


def test_other_tokens_in_one_row_change_no_other_rows_losses(model: PreTrainedModel):
    batch = collate([[0, 1, 2, 3]], made_rows(LENGTHS), pad_id=0)
    before = token_losses(model, batch)
    for segment in range(1, 5):
        is_changed_BT = batch.segment_ids_BT == segment
        ids_BT = torch.where(is_changed_BT, (batch.input_ids_BT + 7) % 64, batch.input_ids_BT)
        after = token_losses(model, dataclasses.replace(batch, input_ids_BT=ids_BT))
        assert torch.equal(before[~is_changed_BT], after[~is_changed_BT])
        assert not torch.equal(before[is_changed_BT], after[is_changed_BT])


def test_padding_gives_no_nan(model: PreTrainedModel):
    rows = made_rows(LENGTHS)
    for batch in (filler_batch(0), collate([[0, 1, 2, 3], [4]], rows, pad_id=0)):
        logits = model(
            batch.input_ids_BT, position_ids=batch.position_ids_BT, attention_mask=attention_mask(batch, torch.float32)
        )
        assert logits.logits.isfinite().all()
    assert (filler_batch(0).num_tokens, filler_batch(0).num_label_tokens) == (0, 0)


def test_a_batch_moves_whole():
    batch = collate([[0, 1]], made_rows(LENGTHS), pad_id=0).to("meta")
    assert {value.device.type for value in vars(batch).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert batch.row_ids == ((0, 1),)
