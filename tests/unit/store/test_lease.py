"""Who may work on a run, on a folder; tests/cluster/test_lease_s3.py runs the same suite on a bucket."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from raylora.store.blob import Store, open_store
from raylora.store.fence import key_of
from raylora.store.lease import SILENT_S, Holder, Lease, is_deserted
from raylora.store.local import FolderStore
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


class HeldUp(FolderStore):
    """A folder that keeps the second sign of life waiting until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.go = threading.Event(), threading.Event()

    def write(self, key: str, data: bytes) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(30)
        super().write(key, data)


def test_a_sign_of_life_that_was_held_up_takes_nothing_back(tmp_path: Path):
    store = HeldUp(tmp_path / "store")
    mine = Lease(store, "r1", beat_s=0.05, watch_s=0.2)
    mine.take()
    assert store.begun.wait(30)
    mine.close()
    store.go.set()
    assert mine._beating is not None
    mine._beating.join(30)
    assert Holder.model_validate_json(store.read(key_of(1))).is_released
    assert is_deserted(store)


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
