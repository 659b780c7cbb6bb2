from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from raylora.strategy.absent import absent

RARE = "this"
"""Of Python's own modules one that nobody imports."""


def test_a_module_is_not_there_within_and_only_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, RARE, raising=False)
    with absent(RARE):
        assert find_spec(RARE) is None
        with pytest.raises(ImportError):
            import_module(RARE)
    assert find_spec(RARE) is not None


def test_one_that_is_loaded_stays():
    with absent("json"):
        assert import_module("json") is sys.modules["json"] is not None
