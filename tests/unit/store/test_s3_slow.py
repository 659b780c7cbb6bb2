"""An S3 that is slow: silence is what ends a request, and not how long it takes as a whole."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raylora.errors import UnusableStoreError
from raylora.store import s3, s3_session
from raylora.store.s3 import BucketStore
from tests.servers.stub_s3 import PIECE_BYTES, s3_that_takes

pytestmark = pytest.mark.slow

SILENCE_S = 2.0
NUM_WRITERS = 50
"""Five for each of the client's connections."""


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(s3.TIMEOUTS, "retries", {"mode": "standard", "total_max_attempts": 1})


def silence(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much of it be as long as a minute."""
    monkeypatch.setattr(s3_session, "READ_TIMEOUT_S", seconds)
    monkeypatch.setitem(s3.TIMEOUTS, "read_timeout", seconds)


def test_many_writes_at_once_wait_for_each_other(monkeypatch: pytest.MonkeyPatch):
    """The last ones wait for a connection for longer than silence may last."""
    silence(monkeypatch, SILENCE_S)
    with s3_that_takes(monkeypatch, lambda: time.sleep(SILENCE_S / 3)) as whole:
        store = BucketStore("bucket", patience_s=0)
        store.write("first", b"makes the client")
        with ThreadPoolExecutor(NUM_WRITERS) as pool:
            for written in [pool.submit(store.write, str(number), b"bytes") for number in range(NUM_WRITERS)]:
                written.result()
        assert len(whole) == 1 + NUM_WRITERS


def test_a_body_that_goes_on_may_take_its_time(monkeypatch: pytest.MonkeyPatch):
    """It takes several times as long as silence may last."""
    silence(monkeypatch, SILENCE_S)
    num_bytes = 64 * PIECE_BYTES
    with s3_that_takes(monkeypatch, lambda: time.sleep(SILENCE_S / 20)) as whole:
        BucketStore("bucket", patience_s=0).write("a", bytes(num_bytes))
        assert whole == [num_bytes]


@pytest.mark.parametrize("num_pieces", [0, 3])
def test_a_body_that_is_not_taken_is_given_up(num_pieces: int, monkeypatch: pytest.MonkeyPatch):
    """S3 has given leave to send it, and takes a part of it at most."""
    silence(monkeypatch, 0.2)
    stopped, over, pieces = threading.Event(), threading.Event(), iter(range(num_pieces))

    def stop() -> None:
        if next(pieces, None) is None:
            stopped.set()
            over.wait()

    with s3_that_takes(monkeypatch, stop) as whole:
        with pytest.raises(UnusableStoreError, match=r"s3://bucket/a.*does not answer as it should"):
            BucketStore("bucket", patience_s=0).write("a", bytes(s3.PART_BYTES))
        assert stopped.is_set()
        over.set()
    assert not whole
