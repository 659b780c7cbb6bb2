"""Bins hold every row once and are full."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylora.data import binning
from raylora.data.binning import fill_bins, single_bins


@given(lengths=st.lists(st.integers(1, 32), max_size=200), window=st.sampled_from([4, 50, 8192]))
def test_every_row_is_in_one_bin_and_no_bin_is_too_full(lengths: list[int], window: int):
    rows = np.random.default_rng(0).permutation(len(lengths))
    before, binning._WINDOW_ROWS = binning._WINDOW_ROWS, window
    try:
        bins = fill_bins(rows, np.asarray(lengths, dtype=np.int64), 32)
    finally:
        binning._WINDOW_ROWS = before
    held = [bins[index] for index in range(len(bins))]
    assert sorted(row for rows_of_bin in held for row in rows_of_bin) == list(range(len(lengths)))
    totals = [sum(lengths[row] for row in rows_of_bin) for rows_of_bin in held]
    assert all(0 < total <= 32 for total in totals)
    if held:
        assert bins.lengths(np.asarray(lengths), 0, len(bins)).tolist() == totals
        assert bins.lengths(np.asarray(lengths), len(bins) - 1, len(bins)).tolist() == totals[-1:]
    # Two bins of one window that fit into one would be a waste; over windows they may occur.
    if window >= len(lengths):
        assert len(totals) < 2 or sum(sorted(totals)[:2]) > 32


def test_usual_lengths_fill_bins_well():
    lengths = np.random.default_rng(0).lognormal(4.5, 0.6, 5000).clip(1, 1024).astype(np.int64)
    bins = fill_bins(np.arange(5000), lengths, 1024)
    assert lengths.sum() / (len(bins) * 1024) > 0.99


def test_bins_in_another_order_are_the_same_bins():
    bins = fill_bins(np.arange(40), np.full(40, 3), 10)
    order = np.arange(len(bins))[::-1]
    turned = bins.take(order)
    assert [turned[index] for index in range(len(bins))] == [bins[index] for index in order]
    single = single_bins(np.array([5, 2, 9]))
    assert [single[index] for index in range(3)] == [(5,), (2,), (9,)]
