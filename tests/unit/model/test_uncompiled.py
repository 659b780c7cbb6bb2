from __future__ import annotations

import os

import pytest
import torch

from raylora.model.base.uncompiled import SWITCH, uncompiled


def double(value: int) -> int:
    return 2 * value


@pytest.mark.parametrize("before", [None, "0"])
def test_a_function_stays_as_it_is_within_and_only_there(before: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SWITCH, raising=False)
    if before is not None:
        monkeypatch.setenv(SWITCH, before)
    with uncompiled():
        assert torch.compile(double) is double
    assert torch.compile(double) is not double
    assert os.environ.get(SWITCH) == before
