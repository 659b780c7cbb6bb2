"""A batch without its padding holds each row's tokens, labels and positions, in order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from raylora.data.collate import attention_mask, collate, filler_batch
from raylora.data.flat import FlatBatch, flatten
from raylora.model.rows.row_attention import attend_by_rows
from raylora.spec.fields.labels import IGNORED
from tests.unit.data.made_rows import made_rows

LENGTHS = [5, 9, 3, 14, 2, 7, 1]


@given(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=3).filter(any))
def test_rows_follow_each_other_as_they_lay_on_their_lines(bins: list[list[int]]):
    rows = made_rows(LENGTHS)
    line = flatten(collate(bins, rows, pad_id=63))
    held = [row for of_line in bins for row in of_line]
    assert line.row_lengths == tuple(LENGTHS[row] for row in held)
    shape = (1, sum(line.row_lengths))
    assert line.input_ids_1N.shape == line.labels_1N.shape == line.position_ids_1N.shape == shape
    parts = (tensor[0].split(line.row_lengths) for tensor in (line.input_ids_1N, line.labels_1N, line.position_ids_1N))
    for row, ids, labels, positions in zip(held, *parts, strict=True):
        tokens, learned = rows.tokens(row)
        assert ids.tolist() == tokens.tolist()
        assert positions.tolist() == list(range(len(tokens)))
        next_tokens = [int(token) if learn else IGNORED for token, learn in zip(tokens[1:], learned[1:], strict=True)]
        assert labels.tolist() == [*next_tokens, IGNORED]


def test_a_batch_without_rows_keeps_its_padding():
    filler = filler_batch(pad_id=3)
    line = flatten(filler)
    assert line.row_lengths == (filler.input_ids_BT.numel(),)
    assert torch.equal(line.input_ids_1N, filler.input_ids_BT)
    assert (line.labels_1N == IGNORED).all()


def test_a_line_moves_whole():
    line = flatten(collate([[0, 1]], made_rows(LENGTHS), pad_id=0)).to("meta")
    assert {value.device.type for value in vars(line).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert line.row_lengths == (5, 9)


def test_a_model_loses_on_bins_and_on_their_line_the_same():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=2, num_key_value_heads=2)).eval()
    assert attend_by_rows(model, max(LENGTHS)) is None
    batch = collate([[0, 1, 2], [3, 4], [5, 6]], made_rows(LENGTHS), pad_id=0)
    line: FlatBatch = flatten(batch)
    with torch.no_grad():
        flat_1NV = model(**line.inputs, use_cache=False).logits
        binned_BTV = model(
            batch.input_ids_BT, position_ids=batch.position_ids_BT, attention_mask=attention_mask(batch, torch.float32)
        ).logits
    torch.testing.assert_close(flat_1NV[0], binned_BTV[batch.segment_ids_BT > 0], rtol=0, atol=1e-6)
    assert torch.equal(line.labels_1N[0], batch.labels_BT[batch.segment_ids_BT > 0])


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 2))
def test_positions_past_a_token_are_those_of_roberta(rows: list[list[int]], padding: int):
    """Of each row alone, a token for padding in its midst included."""
    ids_1N = torch.tensor([[token for row in rows for token in row]])
    line = FlatBatch(ids_1N, ids_1N, ids_1N, tuple(map(len, rows))).counted_past(padding)
    alone = [RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor([row]), padding) for row in rows]
    assert torch.equal(line.position_ids_1N, torch.cat(alone, dim=1))
