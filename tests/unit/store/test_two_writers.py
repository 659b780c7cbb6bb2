"""Two write one group at once: one is refused, and the other's group is whole, in whatever order their steps come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.errors import CorruptObjectError, ExistingObjectError
from raylora.store.blob import open_store
from raylora.store.local import FolderStore
from raylora.store.manifest import MANIFEST, WRITER, discard, fetch, publish
from tests.unit.store.failing import FailingStore, PowerCut

NAMES = ("a", "b")
MOST_STEPS = 12
"""Of a writer that finds a whole group."""

orders = st.lists(st.sampled_from(NAMES), min_size=MOST_STEPS, max_size=2 * MOST_STEPS)
# Hundreds of files are forced to the disk in each example.
few = settings(max_examples=max(40, settings().max_examples // 2), deadline=None)


class Order:
    """Lets two threads take steps in a given order, one at a time; after the last, and where one has ended, in any.

    Args:
        order: Who takes each step.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._left, self._at_it, self._ended = list(order), "", set[str]()
        self._changed = threading.Condition()

    def begin(self, who: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._may_go(who), timeout=30)
            self._at_it = who

    def end(self, who: str, is_last: bool = False) -> None:
        with self._changed:
            self._at_it, self._left = "", self._left[1:] if self._at_it == who else self._left
            self._ended |= {who} if is_last else set()
            self._changed.notify_all()

    def _may_go(self, who: str) -> bool:
        if self._at_it:
            return self._at_it == who
        self._left = [each for each in self._left if each not in self._ended]
        return not self._left or self._left[0] == who


class Stepping(FolderStore):
    """A folder whose changes are steps; a look at a mark and the change after it are one.

    Args:
        folder: Of all writers.
        who: Whose view this is.
        order: Of the steps.
        changes: Notes who changed what.
    """

    def __init__(self, folder: Path, who: str, order: Order, changes: list[tuple[str, str, str]]) -> None:
        super().__init__(folder)
        self._who, self._order, self._changes = who, order, changes

    def read(self, key: str) -> bytes:
        self._order.begin(self._who)
        return super().read(key)

    def write(self, key: str, data: bytes) -> None:
        self._step("write", key, lambda: super(Stepping, self).write(key, data))

    def create(self, key: str, data: bytes) -> None:
        self._step("create", key, lambda: super(Stepping, self).create(key, data))

    def delete(self, prefix: str) -> None:
        self._step("delete", prefix, lambda: super(Stepping, self).delete(prefix))

    def _step(self, verb: str, key: str, change: Callable[[], None]) -> None:
        self._order.begin(self._who)
        try:
            change()
            self._changes.append((self._who, verb, key))
        finally:
            self._order.end(self._who)


def content(who: str) -> dict[str, bytes]:
    return {name: f"{name} of {who}".encode() for name in NAMES}


@few
@given(orders, st.booleans())
def test_one_is_refused_and_the_others_group_is_whole(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], is_there: bool
):
    folder, here = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("here")
    if is_there:
        publish(open_store(str(folder)), "group", content("nobody"), {})
    steps, changes = Order(order), list[tuple[str, str, str]]()

    def write(who: str) -> bool:
        try:
            publish(Stepping(folder, who, steps, changes), "group", content(who), {"who": who})
        except ExistingObjectError:
            return False
        finally:
            steps.end(who, is_last=True)
        return True

    with ThreadPoolExecutor(2) as pool:
        did = dict(zip(NAMES, pool.map(write, NAMES), strict=True))
    first, last = (who for who, _, key in changes if key == f"group/{WRITER}")
    assert did[last]
    assert fetch(open_store(str(folder)), "group", here).about == {"who": last}
    assert {path.name: path.read_bytes() for path in here.iterdir()} == content(last)
    begun = changes.index((last, "write", f"group/{WRITER}"))
    assert {who for who, _, _ in changes[begun:]} == {last}, "who is refused changes nothing any more"
    assert not did[first] or (first, "create", f"group/{MANIFEST}") in changes[:begun], "or it was done before"


class Meanwhile(FolderStore):
    """A folder where something happens before one of its changes, when the look before it is over."""

    def __init__(self, folder: Path, key: str, happens: Callable[[], object]) -> None:
        super().__init__(folder)
        self._key, self._happens = key, happens

    def write(self, key: str, data: bytes) -> None:
        if key == self._key:
            self._happens()
        super().write(key, data)

    def create(self, key: str, data: bytes) -> None:
        if key == self._key:
            self._happens()
        super().create(key, data)


@pytest.mark.parametrize("late", ["a", "b"])
def test_what_was_on_its_way_and_comes_last_is_refused_and_found(tmp_path: Path, late: str):
    """No store but the reader can tell this one; it changes nothing else."""
    theirs = open_store(str(tmp_path / "store"))
    mine = Meanwhile(tmp_path / "store", f"group/{late}", lambda: publish(theirs, "group", content("b"), {}))
    with pytest.raises(ExistingObjectError, match="group: another writer has begun or deleted it meanwhile"):
        publish(mine, "group", content("a"), {})
    with pytest.raises(CorruptObjectError, match=f"group: {late} is not what was written"):
        fetch(theirs, "group", tmp_path / "here")
    kept = {name: content("a" if name == late else "b")[name] for name in NAMES}
    assert {name: theirs.read(f"group/{name}") for name in NAMES} == kept


def test_a_manifest_on_its_way_takes_no_others_place(tmp_path: Path):
    theirs = open_store(str(tmp_path / "store"))
    mine = Meanwhile(tmp_path / "store", f"group/{MANIFEST}", lambda: publish(theirs, "group", content("b"), {}))
    with pytest.raises(ExistingObjectError, match="begun or deleted it meanwhile"):
        publish(mine, "group", content("a"), {})
    fetch(theirs, "group", tmp_path / "here")
    assert (tmp_path / "here" / "a").read_bytes() == b"a of b"


class Overtaken(FolderStore):
    """A folder where a manifest is on its way when another writer begins, and arrives before that one's last file."""

    def create(self, key: str, data: bytes) -> None:
        def arrive() -> None:
            super(Overtaken, self).create(key, data)

        publish(Meanwhile(self.folder, "group/b", arrive), "group", content("b"), {})


def test_a_manifest_that_arrives_when_another_is_at_it_refuses_its_own_writer_alone(tmp_path: Path):
    with pytest.raises(ExistingObjectError, match="begun or deleted it meanwhile"):
        publish(Overtaken(tmp_path / "store"), "group", content("a"), {})
    fetch(open_store(str(tmp_path / "store")), "group", tmp_path / "here")
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == content("b")


def test_a_manifest_that_arrives_when_another_has_begun_is_no_success(tmp_path: Path):
    def begin() -> None:
        with pytest.raises(PowerCut):
            publish(FailingStore(tmp_path / "store", 4), "group", content("b"), {})

    mine = Meanwhile(tmp_path / "store", f"group/{MANIFEST}", begin)
    with pytest.raises(ExistingObjectError, match="begun or deleted it meanwhile"):
        publish(mine, "group", content("a"), {})
    with pytest.raises(CorruptObjectError, match="group: a is not what was written"):
        fetch(open_store(str(tmp_path / "store")), "group", tmp_path / "here")


def test_a_group_that_is_deleted_is_not_written_on(tmp_path: Path):
    """As a checkpoint that another driver gives up, or makes room of."""
    theirs = open_store(str(tmp_path / "store"))
    mine = Meanwhile(tmp_path / "store", "group/a", lambda: discard(theirs, "group"))
    with pytest.raises(ExistingObjectError, match="begun or deleted it meanwhile"):
        publish(mine, "group", content("a"), {})
    assert theirs.keys() == ["group/a"], "what was on its way, and nothing more"
