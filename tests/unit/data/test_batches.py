"""Steps: every row once an epoch, whatever the world size, and the same again after a resume."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.data.batches import Batches, open_batches
from raylora.data.collate import Batch
from tests.unit.data.made_rows import made_rows, run_spec
from tests.unit.data.small_tokenizer import small_tokenizer

LENGTHS = st.lists(st.integers(2, 16), min_size=1, max_size=40)
SHAPES = st.fixed_dictionaries(
    {
        "micro_batch_size": st.integers(1, 3),
        "gradient_accumulation_steps": st.integers(1, 3),
        "sample_packing": st.booleans(),
        "distributed": st.fixed_dictionaries({"num_workers": st.integers(1, 3)}),
        "seed": st.integers(0, 5),
    }
)


def batches_of(lengths: list[int], weights: tuple[float, ...] = (1.0,), **fields: object) -> Batches:
    return Batches(run_spec(**{"sequence_len": 16, **fields}), made_rows(lengths, weights=weights), pad_id=0)


def rows_in(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for line in batch.row_ids for row in line]


def step_rows(batches: Batches, step: int, world_size: int) -> Counter[int]:
    return Counter(chain.from_iterable(rows_in(batches.step(step, rank, world_size)) for rank in range(world_size)))


@settings(max_examples=50)
@given(lengths=LENGTHS, shape=SHAPES, world_size=st.integers(1, 5))
def test_an_epoch_has_every_row_once_over_all_ranks(lengths: list[int], shape: dict[str, object], world_size: int):
    batches = batches_of(lengths, **shape)
    for epoch in range(2):
        steps = range(batches.num_steps(epoch), batches.num_steps(epoch + 1))
        seen = sum((step_rows(batches, step, world_size) for step in steps), Counter())
        assert seen == Counter(range(len(lengths)))


@settings(max_examples=50)
@given(lengths=LENGTHS, shape=SHAPES, world_size=st.integers(1, 5))
def test_ranks_run_as_many_batches_of_at_most_the_size_asked(
    lengths: list[int], shape: dict[str, object], world_size: int
):
    batches = batches_of(lengths, **shape)
    last = batches.num_steps() - 1
    ranks = [batches.step(last, rank, world_size) for rank in range(world_size)]
    assert len({len(mine) for mine in ranks}) == 1
    assert all(len(batch.row_ids) <= shape["micro_batch_size"] for mine in ranks for batch in mine)
    once = [list(batches.once(rank, world_size)) for rank in range(world_size)]
    assert len({len(mine) for mine in once}) == 1
    assert Counter(chain.from_iterable(map(rows_in, once))) == Counter(range(len(lengths)))
    # Rows of a batch are full where rows are enough: no rank idles while another has two batches.
    assert len(once[0]) == -(
        -sum(len(rows) > 0 for mine in once for b in mine for rows in b.row_ids)
        // (world_size * shape["micro_batch_size"])
    )


@settings(max_examples=30)
@given(lengths=LENGTHS, shape=SHAPES, other=st.integers(1, 5))
def test_a_step_has_the_same_rows_under_every_world_size(lengths: list[int], shape: dict[str, object], other: int):
    batches = batches_of(lengths, **shape)
    for step in range(batches.num_steps(2)):
        assert step_rows(batches, step, 1) == step_rows(batches, step, other)


@pytest.mark.parametrize("sample_packing", [False, True])
def test_a_resumed_run_goes_on_with_the_same_batches(sample_packing: bool):
    """A new process that starts in the middle has batches equal to those of one that came there step by step."""
    lengths = [2 + row * 7 % 15 for row in range(23)]
    fields = {"micro_batch_size": 2, "sample_packing": sample_packing}
    whole = batches_of(lengths, (1.0, 0.5), **fields)
    steps = [whole.step(step, 0, 1) for step in range(whole.num_steps(3))]
    for first in (1, whole.num_steps() + 1, whole.num_steps(3) - 1):
        resumed = batches_of(lengths, (1.0, 0.5), **fields)
        for step in range(first, len(steps)):
            for expected, got in zip(steps[step], resumed.step(step, 0, 1), strict=True):
                assert expected.row_ids == got.row_ids
                assert expected.input_ids_BT.equal(got.input_ids_BT)
                assert expected.labels_BT.equal(got.labels_BT)


def test_epochs_and_seeds_have_other_orders():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        batches = batches_of([4] * 30, seed=seed)
        steps = range(batches.num_steps(epoch), batches.num_steps(epoch + 1))
        return tuple(row for step in steps for row in rows_in(batches.step(step, 0, 1)))

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert {tuple(sorted(rows)) for rows in orders} == {tuple(range(30))}


def test_weights_count_in_steps():
    batches = batches_of([4] * 30, (2.0, 1.0, 0.5), micro_batch_size=4)
    seen = sum((step_rows(batches, step, 2) for step in range(batches.num_steps())), Counter())
    assert [sum(seen[row] for row in range(start, start + 10)) for start in (0, 10, 20)] == [20, 10, 5]
    assert batches.num_steps() == -(-35 // 4)


def test_binning_saves_padding():
    lengths = [2 + row * 7 % 15 for row in range(200)]
    num_bins = batches_of(lengths, sample_packing=True).num_steps()
    assert num_bins < batches_of(lengths).num_steps()
    assert 0.9 < sum(lengths) / (16 * num_bins) <= 1.0


def test_rows_of_similar_length_meet_in_a_batch():
    lengths = [2, 16] * 8
    batches = batches_of(lengths, micro_batch_size=4, gradient_accumulation_steps=4)
    padded = [batch for batch in batches.step(0, 0, 1) if batch.num_tokens < batch.input_ids_BT.numel()]
    assert padded == []


def test_ranks_have_about_as_much_to_do():
    # Too few rows to fill a batch on each of two ranks are shared, not heaped on the first.
    few = batches_of([4] * 3, micro_batch_size=2, distributed={"num_workers": 2})
    assert [len(rows_in(few.step(0, rank, 2))) for rank in range(2)] == [2, 1]
    uneven = batches_of(list(range(1, 17)), micro_batch_size=2, gradient_accumulation_steps=8)
    num_tokens = [[batch.num_tokens for batch in uneven.step(0, rank, 2)] for rank in range(2)]
    assert all(abs(one - other) <= 2 for one, other in zip(*num_tokens, strict=True))


def test_padding_is_the_tokenizers():
    tokenizer = small_tokenizer()
    batch = open_batches(run_spec(sequence_len=16, micro_batch_size=2), tokenizer, made_rows([4, 9])).step(0, 0, 1)[0]
    assert batch.input_ids_BT[batch.segment_ids_BT == 0].unique().tolist() == [tokenizer.pad_token_id]


@settings(max_examples=50)
@given(lengths=LENGTHS, shape=SHAPES, num_tokens=st.integers(1, 400), at_most=st.integers(1, 30))
def test_steps_that_hold_so_many_tokens(lengths: list[int], shape: dict[str, object], num_tokens: int, at_most: int):
    batches = batches_of(lengths, **shape)
    seen, step = 0, 0
    while seen < num_tokens and step < at_most:
        seen += sum(batch.num_tokens for rank in range(2) for batch in batches.step(step, rank, 2))
        step += 1
    assert batches.num_steps_holding(num_tokens, at_most) == step
