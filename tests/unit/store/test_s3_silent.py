"""An S3 that stays silent: it is asked again for two minutes, and then it is no run's fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.errors import UnusableStoreError
from raylora.store import retry, s3, s3_session
from raylora.store.s3 import BucketStore
from tests.servers.stub_s3 import s3_that_is_silent

SAID = r"s3://bucket/runs.*does not answer as it should.*check AWS_ENDPOINT_URL"
ASKED: dict[str, Callable[[BucketStore, Path], object]] = {
    "write": lambda store, folder: store.write("a", b"bytes"),
    "write parts": lambda store, folder: store.write("a", bytes(2 * s3.PART_BYTES)),
    "create": lambda store, folder: store.create("a", b"bytes"),
    "upload": lambda store, folder: store.upload(Path(__file__), "a"),
    "read": lambda store, folder: store.read("a"),
    "look": lambda store, folder: store.exists("a"),
    "list": lambda store, folder: store.keys(),
    "delete": lambda store, folder: store.delete("a"),
    "download": lambda store, folder: store.download("a", folder / "a"),
}


class Clock:
    """Time that passes where somebody waits, and nowhere else."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch):
    """A tenth of a second of silence is as long as a minute."""
    monkeypatch.setattr(s3_session, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setitem(s3.TIMEOUTS, "read_timeout", 0.1)
    monkeypatch.setitem(s3.TIMEOUTS, "retries", {"mode": "standard", "total_max_attempts": 1})


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["write", "read"])
def test_silence_for_two_minutes_is_an_unusable_store(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    with s3_that_is_silent(monkeypatch) as taken:
        with pytest.raises(UnusableStoreError, match=SAID):
            ASKED[asked](BucketStore("bucket", "runs"), tmp_path)
        assert 120 - retry.LONGEST_WAIT_S <= clock.now_s <= 120
        assert len(taken) > 120 / retry.LONGEST_WAIT_S, "it was asked again and again"


@pytest.mark.parametrize("asked", ASKED)
def test_silence_ends_whatever_is_asked(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A body is sent once S3 says that it may come, which aiohttp would wait for without end."""
    with s3_that_is_silent(monkeypatch) as taken:
        with pytest.raises(UnusableStoreError, match=SAID):
            ASKED[asked](BucketStore("bucket", "runs", patience_s=0), tmp_path)
        assert taken
    assert not list(tmp_path.iterdir())
