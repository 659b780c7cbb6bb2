"""Who may work on a run, on a folder; tests/cluster/test_lease_s3.py runs the same suite on a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.store.blob import Store, open_store
from raylora.store.process import here, lives
from tests.contract.lease_suite import LeaseSuite, killed_holder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


class TestFolder(LeaseSuite):
    pass


def test_a_process_is_known_by_its_start_and_not_by_its_number(store: Store):
    assert lives(here()) is True
    assert lives(here().model_copy(update={"started": "1"})) is False
    assert lives(killed_holder(store).process) is False


def test_a_process_of_another_machine_cannot_be_told():
    assert lives(here().model_copy(update={"machine": "elsewhere"})) is None
    assert lives(here().model_copy(update={"machine": None})) is None
