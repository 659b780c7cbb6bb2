"""The S3 store against a real server: its errors, its outages, and what a bucket does that a folder does not."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from raylora.errors import CorruptObjectError, StoreError
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.store.manifest import MANIFEST, fetch, publish
from raylora.store.s3 import PART_BYTES, BucketStore, bucket_names
from raylora.store.sweeps import list_sweeps, read_sweep, write_sweep
from tests.cluster.damage import truncated, with_a_bit_flipped
from tests.contract.store_suite import StoreSuite
from tests.servers.fault_proxy import Fault, fault_proxy
from tests.servers.process import free_ports
from tests.servers.s3 import SECRET, S3Server
from tests.unit.sweep.made_sweeps import large_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def store(s3_env: S3Server) -> Store:
    return open_store(s3_env.uri(f"tests/{uuid.uuid4().hex}"))


def impatient(store: Store) -> BucketStore:
    assert isinstance(store, BucketStore)
    return BucketStore(store.bucket, store.prefix, patience_s=0)


class TestBucket(StoreSuite):
    pass


def test_the_whole_bucket_is_a_store(s3_env: S3Server, store: Store):
    store.write("a", b"1")
    bucket = open_store(s3_env.uri())
    key = store.uri.removeprefix(f"{bucket.uri}/") + "/a"
    everything, below = bucket.keys(), bucket.keys("tests")
    assert key in everything
    assert key in below


def test_the_buckets_are_listed_with_the_right_key_only(s3_env: S3Server, monkeypatch: pytest.MonkeyPatch):
    assert s3_env.bucket in bucket_names()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key-nobody-may-print")
    with pytest.raises(StoreError, match="refuses the credentials") as caught:
        bucket_names()
    assert "nobody-may-print" not in str(caught.value)


def test_an_object_of_several_parts_goes_up_and_comes_down(store: Store, tmp_path: Path):
    data = b"".join(bytes([part]) * PART_BYTES for part in range(3)) + b"end"
    (tmp_path / "big").write_bytes(data)
    publish(store, "group", {"file": tmp_path / "big", "bytes": data}, {})
    fetch(store, "group", tmp_path / "got")
    assert (tmp_path / "got" / "file").read_bytes() == (tmp_path / "got" / "bytes").read_bytes() == data


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, r"refuses the credentials \(InvalidAccessKeyId\).*AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, r"refuses the credentials \(SignatureDoesNotMatch\)"),
        ({"AWS_ACCESS_KEY_ID": "reader"}, r"forbids it to this key \(AccessDenied\); allow it to read, write"),
    ],
)
def test_a_wrong_key_is_said_before_training(
    store: Store, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], message: str
):
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=message) as caught:
        store.check_writable()
    assert store.uri in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "wrong-secret" not in str(caught.value)


def test_missing_credentials_are_said(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(StoreError, match=r"no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.check_writable()


@pytest.mark.parametrize("action", ["look", "check", "write", "read", "exists", "keys"])
def test_an_unknown_bucket_is_said(s3_env: S3Server, action: str):
    store = open_store("s3://no-such-bucket/x")
    with pytest.raises(StoreError, match=r"no-such-bucket/.*has no bucket 'no-such-bucket'"):
        match action:
            case "look":
                store.check_there()
            case "check":
                store.check_writable()
            case "write":
                store.write("a", b"")
            case "read":
                store.read("a")
            case "exists":
                store.exists("a")
            case _:
                store.keys("a")


def test_an_endpoint_that_is_not_there_is_said(store: Store, monkeypatch: pytest.MonkeyPatch):
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StoreError, match=f"{endpoint} does not answer as it should .*; check AWS_ENDPOINT_URL"):
        impatient(store).check_writable()


@pytest.mark.parametrize("way", ["write", "upload"])
def test_a_write_that_is_under_way_outlives_a_server_that_is_killed_and_comes_back(
    s3_env: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    """Of an object in parts: one is held between client and server, the others are with the server or on their way."""
    data = b"".join(bytes([part]) * PART_BYTES for part in range(1, 5)) + b"end"
    (tmp_path / "big").write_bytes(data)
    with fault_proxy(s3_env.endpoint) as proxy, ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(s3_env.uri(f"tests/{uuid.uuid4().hex}"))
        store.write("big", b"before")
        held = proxy.strike(Fault("hold", "PUT", "partNumber=2"))
        if way == "write":
            written = pool.submit(store.write, "big", data)
        else:
            written = pool.submit(store.upload, tmp_path / "big", "big")
        assert held.met.wait(60)
        assert store.read("big") == b"before", "no part of it is seen"
        s3_env.stop(signal.SIGKILL)
        try:
            held.go.set()
            time.sleep(2)
            assert not written.done()
        finally:
            s3_env.start()
        written.result(timeout=120)
        assert store.keys() == ["big"]
        assert store.read("big") == data


def test_a_write_outlives_a_server_that_was_killed_and_comes_back(s3_env: S3Server, store: Store):
    store.write("before", b"1")
    s3_env.stop(signal.SIGKILL)
    try:
        with pytest.raises(StoreError, match="does not answer"):
            impatient(store).write("never", b"x")
        written = threading.Thread(target=store.write, args=("during", b"2"))
        written.start()
        time.sleep(2)
        assert written.is_alive()
    finally:
        s3_env.start()
    written.join(timeout=60)
    assert store.keys() == ["before", "during"]
    assert store.read("before") + store.read("during") == b"12"


def test_another_processes_objects_are_seen_at_once(store: Store):
    assert store.keys() == []
    assert not store.exists("late")
    open_store(store.uri).write("late", b"1")
    assert store.keys() == ["late"]
    assert store.exists("late")


def _read_in_child(store: Store) -> None:
    assert store.read("a") == b"1"
    store.write("b", b"2")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_works_in_a_forked_process(store: Store):
    store.write("a", b"1")
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(store,))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert store.read("b") == b"2"


def test_a_pickle_carries_no_secret(store: Store):
    store.write("a", b"1")
    assert SECRET.encode() not in pickle.dumps(store)
    assert SECRET not in repr(store)


def test_the_record_of_a_sweep_in_a_bucket(store: Store):
    record = write_sweep(store, large_sweep(4, repeats=2))
    assert read_sweep(store, record.sweep_id) == record
    assert list_sweeps(open_store(store.uri)) == [record]


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped", "file missing", "manifest missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(store: Store, caplog: pytest.LogCaptureFixture, damage: str):
    for step in (1, 2):
        save_checkpoint(store, Checkpoint(step, {"w": torch.full((64,), float(step))}, {"step": step}), keep=2)
    key = f"checkpoints/step-00000002/{MANIFEST if damage == 'manifest missing' else 'state.safetensors'}"
    data = store.read(key)
    match damage:
        case "truncated":
            store.write(key, truncated(data))
        case "a bit flipped":
            store.write(key, with_a_bit_flipped(data))
        case _:
            store.delete(key)
    loaded = load_latest(store)
    assert loaded is not None
    assert loaded.step == 1
    said = "STEP 2 IS CORRUPT" if damage != "manifest missing" else "STEP 2 IS INCOMPLETE"
    assert said in caplog.text


def test_checkpoints_in_a_bucket(store: Store, caplog: pytest.LogCaptureFixture):
    def at_step(step: int) -> Checkpoint:
        return Checkpoint(step, {"w": torch.full((8,), float(step))}, {"step": step})

    for step in (1, 2, 3):
        uri = save_checkpoint(store, at_step(step), keep=2)
    assert uri == f"{store.uri}/checkpoints/step-00000003"
    assert not store.exists(f"checkpoints/step-00000001/{MANIFEST}")
    store.write("checkpoints/step-00000003/state.safetensors", b"damaged")
    loaded = load_latest(store)
    assert torch.equal(loaded.tensors["w"], at_step(2).tensors["w"])
    assert "STEP 3 IS CORRUPT" in caplog.text
    store.write("checkpoints/step-00000002/state.safetensors", b"damaged")
    with pytest.raises(CorruptObjectError, match="all 2 checkpoints are corrupt"):
        load_latest(store)
    store.delete("checkpoints")
    assert store.keys() == []
    assert load_latest(store) is None
