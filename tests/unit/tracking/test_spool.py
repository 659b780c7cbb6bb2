from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.errors import StoreError
from raylora.tracking.spool import Spool
from tests.unit.store.disks import mounted


def numbers(spool: Spool, limit: int | None = None) -> list[int]:
    return [entry["n"] for entry in spool.pending(limit)[0]]


def on_disk(spool: Spool) -> list[int]:
    return [json.loads(line)["n"] for line in (spool.folder / "entries.jsonl").read_bytes().splitlines()]


def fill(spool: Spool, values: range) -> None:
    for n in values:
        spool.append({"n": n})


def test_entries_come_out_in_order_until_they_are_acknowledged(tmp_path: Path):
    spool = Spool(tmp_path / "s")
    fill(spool, range(5))
    assert numbers(spool) == numbers(spool) == [0, 1, 2, 3, 4]
    entries, end = spool.pending(limit=2)
    assert [entry["n"] for entry in entries] == [0, 1]
    spool.acknowledge(end)
    fill(spool, range(5, 7))
    assert numbers(spool) == [2, 3, 4, 5, 6]


def test_another_process_goes_on_where_the_first_was_killed(tmp_path: Path):
    first = Spool(tmp_path / "s")
    fill(first, range(4))
    first.acknowledge(first.pending(limit=3)[1])
    second = Spool(tmp_path / "s")  # the first was never closed
    assert numbers(second) == [3]
    fill(second, range(4, 6))
    assert numbers(second) == [3, 4, 5]


@pytest.mark.parametrize("torn", [b"{", b'{"n": 7', b'{"n": 7}'])
def test_half_a_line_is_dropped_and_harms_no_other(tmp_path: Path, torn: bytes):
    fill(Spool(tmp_path / "s"), range(2))
    with (tmp_path / "s" / "entries.jsonl").open("ab") as file:
        file.write(torn)
    spool = Spool(tmp_path / "s")
    fill(spool, range(2, 3))
    assert numbers(spool) == [0, 1, 2]


def test_a_damaged_line_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "entries.jsonl").write_bytes(b'{"n": 0}\n\0\0\0\n{"n": 2}\n')
    spool = Spool(tmp_path / "s")
    assert numbers(spool) == [0, 2]
    assert "damaged" in caplog.text
    spool.acknowledge(spool.pending()[1])
    assert numbers(spool) == []


def test_lines_of_many_threads_do_not_mix(tmp_path: Path):
    spool = Spool(tmp_path / "s")
    threads = [threading.Thread(target=fill, args=(spool, range(k, 400, 4))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(spool)) == list(range(400))


def test_a_full_disk_and_a_full_memory_are_said_and_lose_nothing_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("raylora.tracking.spool.MEMORY_ENTRIES", 3)
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        spool = Spool(disk / "s")
        kept = 0
        with pytest.raises(StoreError, match="the disk is full"):
            for kept in range(10_000):
                spool.append({"n": kept, "text": "x" * 1000})
        assert numbers(spool) == list(range(kept))
        assert on_disk(spool) == list(range(kept - 3))
        assert (spool.close(), spool.num_lost) == (kept - 3, 4)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Spool, Path]]:
    """A spool of ten entries that has room for a few of them, and the file that takes the rest of its disk."""
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        (disk / "other").write_bytes(b"x" * (60 << 10))
        spool = Spool(disk / "s")
        for n in range(10):
            spool.append({"n": n, "text": "x" * 1000})
        assert 0 < len(on_disk(spool)) < 8
        yield spool, disk / "other"


def test_what_waits_in_memory_comes_last_and_is_written_when_there_is_room(full: tuple[Spool, Path]):
    spool, other = full
    assert numbers(spool) == list(range(10))
    other.unlink()
    spool.append({"n": 10})
    assert numbers(spool) == on_disk(spool) == list(range(11))


@pytest.mark.parametrize("is_room", [False, True])
def test_what_waits_in_memory_is_acknowledged_where_it_is_then(full: tuple[Spool, Path], is_room: bool):
    spool, other = full
    num_sent = len(on_disk(spool)) + 2
    entries, end = spool.pending(num_sent)
    assert [entry["n"] for entry in entries] == list(range(num_sent))
    if is_room:
        other.unlink()
    spool.append({"n": 10})
    spool.acknowledge(end)
    assert numbers(spool) == list(range(num_sent, 11))
    if not is_room:
        other.unlink()
    spool.append({"n": 11})
    assert numbers(spool) == list(range(num_sent, 12))
    found = numbers(Spool(spool.folder))  # a full disk may not have noted what was sent
    assert found[num_sent - 12 :] == list(range(num_sent, 12))


def test_a_closing_spool_tries_the_disk_once_more(full: tuple[Spool, Path]):
    spool, other = full
    other.unlink()
    assert (spool.close(), spool.num_lost) == (10, 0)
    assert numbers(Spool(spool.folder)) == list(range(10))


def test_entries_outlive_a_folder_that_somebody_deletes(tmp_path: Path):
    spool = Spool(tmp_path / "s")
    fill(spool, range(2))
    shutil.rmtree(tmp_path / "s")
    fill(spool, range(2, 4))
    assert numbers(spool) == [0, 1, 2, 3]
    spool.acknowledge(spool.pending()[1])
    assert spool.close() == 0


def test_an_empty_spool_is_deleted_and_another_is_not(tmp_path: Path):
    empty, full = Spool(tmp_path / "empty"), Spool(tmp_path / "full")
    fill(empty, range(2))
    fill(full, range(2))
    empty.acknowledge(empty.pending()[1])
    assert (empty.close(), full.close()) == (0, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_closed_spool_is_left_as_it_is(tmp_path: Path):
    spool = Spool(tmp_path / "s")
    fill(spool, range(2))
    end = spool.pending()[1]
    assert spool.close() == 2
    assert numbers(spool) == []
    spool.acknowledge(end)
    with pytest.raises(StoreError, match="cannot keep metrics in"):
        fill(spool, range(1))
    assert numbers(Spool(tmp_path / "s")) == [0, 1]


def test_entries_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.tracking.spool.BLOCK_BYTES", 5)
    spool = Spool(tmp_path / "s")
    fill(spool, range(20))
    spool.acknowledge(spool.pending(limit=7)[1])
    assert numbers(spool, limit=9) == list(range(7, 16))


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot keep metrics in"):
        Spool(tmp_path / "file" / "s")
