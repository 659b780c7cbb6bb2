"""Permutations, splits and mixes: functions of their seed alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raylora.data.mix import check_weights, epoch_rows
from raylora.data.order import Purpose, permutation
from raylora.data.split import split_rows
from raylora.errors import DataError

SEEDS = st.integers(0, 2**32)


@given(count=st.integers(0, 300), seed=SEEDS, epoch=st.integers(0, 50))
def test_a_permutation_has_everything_once_and_depends_on_its_key(count: int, seed: int, epoch: int):
    order = permutation(count, Purpose.ROWS, seed, epoch)
    assert sorted(order) == list(range(count))
    assert order.tolist() == permutation(count, Purpose.ROWS, seed, epoch).tolist()


def test_other_keys_give_other_permutations():
    keys = [(Purpose.ROWS, 0, 0), (Purpose.ROWS, 0, 1), (Purpose.ROWS, 1, 0), (Purpose.SPLIT, 0, 0), (Purpose.ROWS, 0)]
    assert len({tuple(permutation(50, *key).tolist()) for key in keys}) == len(keys)


def test_the_order_is_the_same_in_every_process_and_release():
    """A run resumed with another release of NumPy must see the same rows: these numbers may never change."""
    expected = [8, 3, 7, 0, 4, 2, 6, 1, 9, 5]
    code = "from raylora.data.order import *; print(permutation(10, Purpose.ROWS, 42, 0).tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == str(expected) == str(permutation(10, Purpose.ROWS, 42, 0).tolist())


def test_every_row_comes_first_about_as_often():
    firsts = Counter(int(permutation(4, Purpose.ROWS, 0, epoch)[0]) for epoch in range(4000))
    assert all(900 < firsts[row] < 1100 for row in range(4))


@given(content=st.lists(st.integers(0, 30), min_size=2, max_size=60), size=st.floats(0.01, 20), seed=SEEDS)
def test_a_split_has_every_row_once_and_no_content_twice(content: list[int], size: float, seed: int):
    keys = np.asarray(content)
    try:
        train, validation = split_rows(keys, size, seed)
    except DataError:
        assume(False)
    assert sorted([*train, *validation]) == list(range(len(keys)))
    assert not set(keys[train]) & set(keys[validation])
    wanted = round(size * len(keys) if size < 1 else size)
    assert 0 < len(validation) <= wanted


@pytest.mark.parametrize(("size", "num_validation"), [(0.1, 10), (0.25, 25), (7, 7), (99, 99)])
def test_a_split_of_different_rows_has_the_size_asked_for(size: float, num_validation: int):
    train, validation = split_rows(np.arange(100), size, 0)
    assert (len(train), len(validation)) == (100 - num_validation, num_validation)
    # The contents decide, not where they are.
    backwards = split_rows(np.arange(100)[::-1], size, 0)[1]
    assert set(99 - backwards) == set(validation)
    assert set(split_rows(np.arange(100), size, 1)[1]) != set(validation)


@given(content=st.sets(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=60), size=st.floats(0.02, 20), seed=SEEDS)
def test_a_split_of_different_rows_is_the_same_in_every_release(content: set[int], size: float, seed: int):
    """The first of a permutation, as many as were asked for: a resumed run must find its split again."""
    keys = np.asarray(list(content), dtype=np.int64)
    wanted = round(size * len(keys) if size < 1 else size)
    assume(0 < wanted < len(keys))
    first = np.sort(keys)[permutation(len(keys), Purpose.SPLIT, seed)[:wanted]]
    assert set(keys[split_rows(keys, size, seed)[1]]) == set(first)


def test_content_that_occurs_too_often_is_passed_over():
    content = np.asarray([0] * 50 + list(range(1, 51)))
    for seed in range(60):
        assert len(split_rows(content, 0.1, seed)[1]) == 10
    twice_and_once = np.asarray([*np.repeat(np.arange(30), 2), *range(100, 110)])
    assert {len(split_rows(twice_and_once, 15, seed)[1]) for seed in range(60)} == {15}


@pytest.mark.parametrize(
    ("content", "size", "said"),
    [
        (range(50), 0.001, "leaves no row for validation"),
        (range(50), 50, "leaves no row for training"),
        ([7] * 50, 10, r"50 rows \(1 different\) leaves no row for validation"),
    ],
)
def test_a_split_with_an_empty_side_is_refused(content: list[int], size: float, said: str):
    with pytest.raises(DataError, match=said):
        split_rows(np.asarray(content), size, 0)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0]), min_size=3, max_size=3),
    seed=SEEDS,
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_rows_by_weight(sizes: list[int], weights: list[float], seed: int, epoch: int):
    source_of = np.repeat(np.arange(len(sizes)), sizes)
    weights = weights[: len(sizes)]
    assume(any(round(size * weight) for size, weight in zip(sizes, weights, strict=True)))
    shown = Counter(epoch_rows(source_of, weights, seed, epoch).tolist())
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        times = [shown[row] for row in np.flatnonzero(source_of == source)]
        assert sum(times) == int(weight) * size + round((weight - int(weight)) * size)
        assert set(times) <= {int(weight), int(weight) + 1}


def test_a_fraction_gives_every_row_its_turn():
    source_of = np.zeros(12, dtype=np.int64)
    shown = Counter(row for epoch in range(4) for row in epoch_rows(source_of, [0.25], 3, epoch).tolist())
    assert shown == Counter(range(12))


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(DataError, match=r"weights \[0.01\] of 10 rows leave none"):
        check_weights(np.zeros(10, dtype=np.int64), [0.01])
    check_weights(np.asarray([0] * 10 + [1] * 100), [0.01, 0.01])
    with pytest.raises(DataError, match=r"weights \[1.0, 0.01\] of 10 rows leave none"):
        check_weights(np.ones(10, dtype=np.int64), [1.0, 0.01])
