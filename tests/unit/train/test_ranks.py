"""A store that takes nothing, as the ranks of a run hear of it."""

from __future__ import annotations

import pytest

from raylora.errors import InputError, RunFailedError, StoreError, UnusableStoreError
from raylora.train.ranks import Ranks


def test_what_is_broken_is_told_as_such_whoever_writes_it():
    def write() -> str:
        raise RunFailedError("model.norm.weight has values that are not finite")

    with pytest.raises(RunFailedError, match="not finite"):
        Ranks().store(write)


def test_what_else_keeps_rank_0_from_writing_is_told_as_an_error_of_the_store():
    def write() -> str:
        raise InputError("the disk is full")

    assert Ranks().store(lambda: "s3://bucket/run") == "s3://bucket/run"
    with pytest.raises(StoreError, match="the disk is full"):
        Ranks().store(write)


def test_a_store_that_takes_nothing_from_anybody_is_told_as_such():
    def write() -> str:
        raise UnusableStoreError("the disk is full")

    with pytest.raises(UnusableStoreError, match="the disk is full"):
        Ranks().store(write)
