from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raylora.tracking import outbox
from raylora.tracking.outbox import Outbox
from raylora.tracking.spool import Entry, Spool
from tests.unit.store.disks import mounted

LONG_S = 30.0


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch):
    for name in ("GATHER_S", "FIRST_WAIT_S", "CLOSING_WAIT_S"):
        monkeypatch.setattr(outbox, name, 0.01)


class Receiver:
    """Takes entries, except while it is told to fail."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.failing = threading.Event()
        self.tried = threading.Event()

    def __call__(self, entries: Sequence[Entry]) -> None:
        self.tried.set()
        if self.failing.is_set():
            raise ConnectionError("secret-password refused")
        self.got += [entry["n"] for entry in entries]


def opened(folder: Path, receiver: Receiver) -> Outbox:
    return Outbox(folder, receiver, "metrics", lambda error: str(error).replace("secret-password", "***"))


def test_everything_put_is_delivered_in_order(tmp_path: Path):
    receiver = Receiver()
    box = opened(tmp_path / "s", receiver)
    for n in range(1234):
        box.put({"n": n})
    assert box.close(LONG_S) == 0
    assert receiver.got == list(range(1234))
    assert not (tmp_path / "s").exists()


def test_a_failure_delays_and_loses_nothing_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    receiver = Receiver()
    receiver.failing.set()
    box = opened(tmp_path / "s", receiver)
    box.put({"n": 0})
    assert receiver.tried.wait(LONG_S)
    for _ in range(3):
        receiver.tried.clear()
        assert receiver.tried.wait(LONG_S)
    box.put({"n": 1})
    receiver.failing.clear()
    assert box.close(LONG_S) == 0
    assert receiver.got == [0, 1]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "*** refused" in warnings[0]
    assert "secret-password" not in caplog.text


def test_closing_gives_up_in_time_and_the_next_one_sends_what_is_left(tmp_path: Path):
    receiver = Receiver()
    receiver.failing.set()
    box = opened(tmp_path / "s", receiver)
    for n in range(3):
        box.put({"n": n})
    assert box.close(0.2) == 3
    receiver.failing.clear()
    again = opened(tmp_path / "s", receiver)
    again.put({"n": 3})
    assert again.close(LONG_S) == 0
    assert list(dict.fromkeys(receiver.got)) == [0, 1, 2, 3]  # the first one's last try may come late: twice is once


def test_what_is_put_right_before_the_closing_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked, go_on = threading.Event(), threading.Event()

    class SlowSpool(Spool):
        """Finds nothing, and hands that out when there is something."""

        def pending(self, limit: int | None = None) -> tuple[list[Entry], int]:
            found = super().pending(limit)
            looked.set()
            go_on.wait(LONG_S)
            return found

    monkeypatch.setattr(outbox, "Spool", SlowSpool)
    receiver = Receiver()
    box = opened(tmp_path / "s", receiver)
    assert looked.wait(LONG_S)
    box.put({"n": 0})
    with ThreadPoolExecutor() as pool:
        left = pool.submit(box.close, LONG_S)
        assert box._closing.wait(LONG_S)
        go_on.set()
        assert left.result() == 0
    assert receiver.got == [0]


def test_closing_does_not_wait_for_a_receiver_that_hangs(tmp_path: Path):
    release = threading.Event()
    box = Outbox(tmp_path / "s", lambda entries: release.wait(LONG_S) and None, "metrics", str)
    box.put({"n": 0})
    assert box.close(0.2) == 1
    release.set()


TOO_LONG = "x" * (64 << 10)
"""For a disk of 16 KiB."""


def test_what_a_full_disk_does_not_take_is_delivered_in_its_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with mounted(tmp_path / "disk", 16 << 10) as disk:
        receiver = Receiver()
        receiver.failing.set()
        box = opened(disk / "s", receiver)
        for entry in ({"n": 0}, {"n": 1, "text": TOO_LONG}, {"n": 2}, {"n": 3, "text": TOO_LONG}):
            box.put(entry)
        assert [entry["n"] for entry in box.pending()] == [0, 1, 2, 3]
        receiver.failing.clear()
        assert (box.close(LONG_S), box.num_lost) == (0, 0)
    assert receiver.got == [0, 1, 2, 3]
    assert caplog.text.count("entries are kept in memory") == 1


def test_what_is_neither_on_disk_nor_delivered_is_counted(tmp_path: Path):
    with mounted(tmp_path / "disk", 16 << 10) as disk:
        receiver, later = Receiver(), Receiver()
        receiver.failing.set()
        box = opened(disk / "s", receiver)
        for entry in ({"n": 0}, {"n": 1, "text": TOO_LONG}, {"n": 2}):
            box.put(entry)
        assert (box.close(0.2), box.num_lost) == (1, 2)
        assert opened(disk / "s", later).close(LONG_S) == 0
    assert later.got == [0]


def test_what_finds_no_place_in_memory_either_is_said_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("raylora.tracking.spool.MEMORY_ENTRIES", 2)
    with mounted(tmp_path / "disk", 16 << 10) as disk:
        receiver = Receiver()
        receiver.failing.set()
        box = opened(disk / "s", receiver)
        for n in range(4):
            box.put({"n": n, "text": TOO_LONG})
        receiver.failing.clear()
        assert (box.close(LONG_S), box.num_lost) == (0, 2)
    assert receiver.got == [0, 1]
    assert caplog.text.count("not tracked") == 2
