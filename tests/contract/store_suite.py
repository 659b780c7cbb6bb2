"""What every `Store` must do. A backend's tests derive a class from this one and give it a fixture `store`."""

from __future__ import annotations

import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.errors import ExistingObjectError, InputError, MissingObjectError
from raylora.store.blob import Store, open_store

NAMES = st.sampled_from(["a", "b.json", "d/a", "d/e/a", "dd/a", "ä ö/ü+%20#?.bin"])
NUM_WRITERS = 8
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["write", "create"]), NAMES, st.binary(max_size=64)),
    st.tuples(st.just("delete"), st.sampled_from(["a", "d", "d/e", "dd", "nothing"]), st.just(b"")),
)
# Every backend runs this one method, and every example takes a new child of the one store.
SHARED = [HealthCheck.differing_executors, HealthCheck.function_scoped_fixture]


class StoreSuite:
    def test_what_is_written_is_read(self, store: Store):
        store.write("a/b.bin", b"one")
        assert store.read("a/b.bin") == b"one"
        store.write("a/b.bin", b"")
        assert store.read("a/b.bin") == b""

    def test_what_is_missing_is_said(self, store: Store, tmp_path: Path):
        with pytest.raises(MissingObjectError, match="no/where"):
            store.read("no/where")
        with pytest.raises(MissingObjectError, match="no/where"):
            store.download("no/where", tmp_path / "got")
        with pytest.raises(MissingObjectError, match="no/where"):
            store.version("no/where")
        assert list(tmp_path.iterdir()) == []
        assert not store.exists("no/where")
        assert store.keys() == store.keys("no") == []
        store.delete("no/where")

    def test_what_is_there_is_not_created_again(self, store: Store):
        store.create("a/b", b"mine")
        store.create("a/b", b"mine")
        with pytest.raises(ExistingObjectError, match="a/b: there is one already"):
            store.create("a/b", b"other")
        assert store.read("a/b") == b"mine"
        store.delete("a")
        store.create("a/b", b"other")
        assert store.read("a/b") == b"other"

    def test_of_many_that_create_one_object_one_does(self, store: Store):
        start = threading.Barrier(NUM_WRITERS)

        def create(data: bytes) -> bytes | None:
            start.wait()
            try:
                store.create("a", data)
            except ExistingObjectError:
                return None
            return data

        with ThreadPoolExecutor(NUM_WRITERS) as pool:
            created = [data for data in pool.map(create, [b"%d" % n for n in range(NUM_WRITERS)]) if data is not None]
        assert created == [store.read("a")]
        assert store.keys() == ["a"]

    def test_a_version_changes_with_the_content(self, store: Store):
        store.write("a", b"one")
        first = store.version("a")
        assert store.version("a") == first
        store.write("a", b"two")
        assert store.version("a") != first

    def test_a_folder_is_no_object_and_no_prefix_of_names(self, store: Store):
        store.write("run/a", b"1")
        store.write("run2/a", b"2")
        assert store.keys("run") == ["run/a"]
        assert store.keys("run/a") == []
        assert not store.exists("run")
        store.delete("run")
        assert store.keys() == ["run2/a"]

    def test_a_child_sees_its_own_keys(self, store: Store):
        child = store.child("runs/r1")
        child.write("x", b"1")
        assert child.keys() == ["x"]
        assert store.keys() == ["runs/r1/x"]
        assert child.uri_of("x") == store.uri_of("runs/r1/x") == f"{store.uri}/runs/r1/x"
        assert open_store(child.uri).read("x") == b"1"

    def test_files_go_up_and_come_down(self, store: Store, tmp_path: Path):
        source = tmp_path / "source"
        source.write_bytes(bytes(range(256)) * 4096)
        store.upload(source, "deep/er/file")
        store.download("deep/er/file", tmp_path / "new" / "target")
        assert (tmp_path / "new" / "target").read_bytes() == source.read_bytes()
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["target"]

    @pytest.mark.parametrize("key", ["", "/", "..", "a/../b", "./a", "a//b", "a\\b", "a\0b"])
    def test_no_key_leads_out_of_the_store(self, store: Store, key: str):
        for refuse in (store.read, store.delete, store.exists, store.child, store.uri_of):
            with pytest.raises(InputError, match="no name inside a store"):
                refuse(key)

    def test_a_store_that_exists_may_be_empty(self, store: Store):
        store.write("a", b"1")
        store.delete("a")
        store.check_there()

    def test_a_check_leaves_nothing(self, store: Store):
        store.check_writable()
        assert store.keys() == []

    def test_a_pickled_store_is_the_same_store(self, store: Store):
        store.write("k", b"v")
        again = pickle.loads(pickle.dumps(store))
        assert (again.uri, again.read("k")) == (store.uri, b"v")

    @settings(max_examples=15, deadline=None, suppress_health_check=SHARED)
    @given(st.lists(ACTIONS, max_size=8))
    def test_a_store_is_a_dictionary_of_bytes(self, store: Store, actions: list[tuple[str, str, bytes]]):
        store, model = store.child(uuid.uuid4().hex), {}
        for action, key, data in actions:
            if action == "write":
                store.write(key, data)
                model[key] = data
            elif action == "create":
                with suppress(ExistingObjectError):
                    store.create(key, data)
                model.setdefault(key, data)
            else:
                store.delete(key)
                model = {name: kept for name, kept in model.items() if name != key and not name.startswith(f"{key}/")}
        assert store.keys() == sorted(model)
        assert {key: store.read(key) for key in model} == model
