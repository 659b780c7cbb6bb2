"""Who may work on a run, on a folder; tests/cluster/test_lease_s3.py runs the same suite on a bucket."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from raylora.store.blob import Store, open_store
from raylora.store.fence import key_of
from raylora.store.lease import SILENT_S, Lease, is_deserted
from raylora.store.process import here, lives
from tests.contract.lease_suite import LeaseSuite, killed_holder, on_another_machine


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


def test_a_run_is_deserted_when_its_driver_is_gone(store: Store):
    assert is_deserted(store), "nobody ever took it"
    with closing(Lease(store, "r1")) as mine:
        mine.take()
        assert not is_deserted(store)
    store.write(key_of(1), killed_holder(store).model_dump_json().encode())
    assert is_deserted(store)


@pytest.mark.parametrize(("age_s", "gone"), [(0.0, False), (2 * SILENT_S, True), (None, False)])
def test_a_driver_elsewhere_is_gone_when_it_was_silent_for_long(store: Store, age_s: float | None, gone: bool):
    beaten_at = None if age_s is None else time.time() - age_s
    left = on_another_machine(killed_holder(store)).model_copy(update={"beaten_at": beaten_at})
    store.write(key_of(1), left.model_dump_json().encode())
    assert is_deserted(store) is gone
