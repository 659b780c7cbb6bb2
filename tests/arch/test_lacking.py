"""Tests that ask for what a machine lacks: left out, and not left out where somebody said that they may not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.lacking import NEED_ALL, lacking


@pytest.mark.parametrize("said", [None, "", "0"])
def test_it_is_left_out(monkeypatch: pytest.MonkeyPatch, said: str | None):
    monkeypatch.delenv(NEED_ALL, raising=False)
    if said is not None:
        monkeypatch.setenv(NEED_ALL, said)
    with pytest.raises(pytest.skip.Exception, match="no moon; wait for it"):
        lacking("no moon", "wait for it")


def test_it_fails_where_all_are_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NEED_ALL, "1")
    with pytest.raises(pytest.fail.Exception, match=f"no moon; wait for it, or set {NEED_ALL}=0"):
        lacking("no moon", "wait for it")


def test_a_change_lands_with_all_of_them():
    assert f"export {NEED_ALL}=" in (Path(__file__).parents[2] / ".ci" / "run").read_text()
