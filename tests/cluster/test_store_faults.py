"""The S3 store against a real server behind a proxy that answers late, wrongly, or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raylora.errors import ExistingObjectError, StoreError, UnusableStoreError
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.store.s3 import PART_BYTES
from raylora.sweep.steering.signed_files import tunes_files
from tests.servers.fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from tests.servers.s3 import SECRET, S3Server

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(180)]

PASSING: tuple[Kind, ...] = ("busy", "reset", "lost answer", "stall")
WITH_ANSWERS: tuple[Kind, ...] = (*PASSING, "cut answer")
"""Where answers have bodies."""


@pytest.fixture
def proxy(s3_env: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(s3_env.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, s3_env: S3Server) -> Store:
    return open_store(s3_env.uri(f"faults/{uuid.uuid4().hex}"))


def at_step(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((1024,), float(step))}, {"step": step})


@pytest.mark.parametrize("kind", PASSING)
def test_a_write_outlives_it(store: Store, proxy: FaultProxy, kind: Kind):
    fault = proxy.strike(Fault(kind, "PUT", "/a", times=2, seconds=1))
    store.write("a", b"bytes")
    assert store.read("a") == b"bytes"
    assert len(fault.struck) == 2


@pytest.mark.parametrize("kind", PASSING)
def test_what_was_created_and_never_confirmed_is_ones_own(store: Store, proxy: FaultProxy, kind: Kind):
    fault = proxy.strike(Fault(kind, "PUT", "/a", seconds=1))
    store.create("a", b"mine")
    assert fault.struck
    with pytest.raises(ExistingObjectError):
        store.create("a", b"other")
    assert store.read("a") == b"mine"


@pytest.mark.parametrize("kind", WITH_ANSWERS)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_reads_listings_and_deletions_outlive_it(store: Store, proxy: FaultProxy, method: str, kind: Kind):
    store.write("a", b"bytes")
    fault = proxy.strike(Fault(kind, method, "", times=3, seconds=0.5))
    assert store.read("a") == b"bytes"
    assert store.keys() == ["a"]
    store.delete("a")
    assert store.keys() == []
    assert len(fault.struck) == 3 or (method == "DELETE" and fault.struck)


@pytest.mark.parametrize("kind", WITH_ANSWERS)
@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "uploadId="], ids=["begin", "a part", "any part or end"])
def test_an_object_of_several_parts_outlives_it(store: Store, proxy: FaultProxy, tmp_path: Path, step: str, kind: Kind):
    data = b"".join(bytes([part]) * PART_BYTES for part in range(3))
    (tmp_path / "big").write_bytes(data)
    fault = proxy.strike(Fault(kind, "PUT" if step == "partNumber=2" else "POST", step, seconds=1))
    store.upload(tmp_path / "big", "big")
    assert fault.struck
    store.download("big", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("kind", WITH_ANSWERS)
def test_what_tune_keeps_outlives_it(s3_env: S3Server, proxy: FaultProxy, kind: Kind):
    """Through Arrow's client, which asks three times and has no patience."""
    folder, files = tunes_files(s3_env.uri(f"tune/{uuid.uuid4().hex}"))
    faults = [proxy.strike(Fault(kind, method, "/a", times=5, seconds=0.2)) for method in ("PUT", "GET")]
    for data in (b"first", b"second", b"third", b"fourth", b"fifth"):
        with files.open_output_stream(f"{folder}/a") as stream:
            stream.write(data)
        with files.open_input_stream(f"{folder}/a") as stream:
            assert stream.readall() == data
    assert [len(fault.struck) for fault in faults] == [5, 5]


def test_a_key_that_expires_is_said_at_once_also_where_the_answer_has_no_document(store: Store, proxy: FaultProxy):
    """As every answer to HEAD, which has a status and no more."""
    store.write("a", b"bytes")
    fault = proxy.strike(Fault("expired", "HEAD", "/a", times=99))
    with pytest.raises(UnusableStoreError, match=r"refuses the credentials \(400\).*AWS_ACCESS_KEY_ID"):
        store.exists("a")
    assert len(fault.struck) == 1


def test_a_key_that_expires_is_said_at_once(store: Store, proxy: FaultProxy):
    fault = proxy.strike(Fault("expired", "PUT", "/a", times=99))
    with pytest.raises(
        UnusableStoreError, match=r"refuses the credentials \(ExpiredToken\).*AWS_ACCESS_KEY_ID"
    ) as caught:
        store.write("a", b"bytes")
    assert len(fault.struck) == 1
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", ["expired", "busy"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_wherever_saving_breaks_off_the_checkpoint_before_is_loaded(
    s3_env: S3Server, store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, name: str, kind: Kind
):
    monkeypatch.setattr(store, "patience_s", 0.0)
    save_checkpoint(store, at_step(1), keep=2)
    fault = proxy.strike(Fault(kind, "PUT", name, times=99))
    with pytest.raises(StoreError, match=name):
        save_checkpoint(store, at_step(2), keep=2)
    fault.times = 0
    loaded = load_latest(store)
    assert loaded is not None
    assert loaded.step == 1
    save_checkpoint(store, at_step(3), keep=2)
    assert load_latest(store).step == 3
