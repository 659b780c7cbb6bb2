"""What a lease promises on any store. Each store's tests derive a class from this one and give it a fixture `store`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raylora.errors import InputError, RunFailedError, StoreError
from raylora.store.blob import Store
from raylora.store.fence import FOLDER, enter, key_of, open_fenced
from raylora.store.lease import Holder, Lease, is_deserted

BEAT_S, WATCH_S = 0.05, 1.0
NUM_TAKERS = 6
FIRST, SECOND = key_of(1), key_of(2)

HOLD = """
import sys
from raylora.store.blob import open_store
from raylora.store.lease import Lease

Lease(open_store(sys.argv[1]), "r1").take()
print("taken", flush=True)
sys.stdin.read()
"""


def lease(store: Store) -> Lease:
    return Lease(store, "r1", BEAT_S, WATCH_S)


def holder(store: Store) -> Holder:
    return Holder.model_validate_json(store.read(store.keys(FOLDER)[-1]))


@contextmanager
def other_driver(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that works on the run, until it is killed."""
    words = [sys.executable, "-c", HOLD, store.uri]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        try:
            yield process
        finally:
            process.kill()


def killed_holder(store: Store) -> Holder:
    """What a killed driver leaves behind."""
    with other_driver(store):
        left = holder(store)
    return left


def on_another_machine(left: Holder) -> Holder:
    elsewhere = left.process.model_copy(update={"machine": "elsewhere", "host": "far"})
    return left.model_copy(update={"process": elsewhere})


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def knows(held: Lease) -> bool:
    """Whether its signs of life have told a driver that another came."""
    try:
        held.check()
    except RunFailedError:
        return True
    return False


class LeaseSuite:
    def test_it_is_taken_and_given_back(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            mine.take()
            wait_until(lambda: holder(store).num_beats > 3)
            mine.check()
        assert is_deserted(store)

    def test_one_that_was_never_taken_leaves_others_alone(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            lease(store).close()
            assert store.keys() == [FIRST]

    def test_a_driver_that_lives_is_named(self, store: Store):
        with other_driver(store) as process:
            with pytest.raises(InputError, match=rf"^run r1: .*process {process.pid} on .*wait for its end.*kill"):
                lease(store).take()
            assert holder(store).process.pid == process.pid

    @pytest.mark.parametrize(
        "left", ["nothing", "a dead driver's lease", pytest.param("something unreadable", marks=pytest.mark.slow)]
    )
    def test_of_many_that_take_it_at_once_one_gets_it(self, store: Store, left: str):
        if left != "nothing":
            is_dead = left.startswith("a dead")
            store.write(FIRST, killed_holder(store).model_dump_json().encode() if is_dead else b"{")
        start = threading.Barrier(NUM_TAKERS)

        def take(taker: Lease) -> bool:
            start.wait()
            try:
                taker.take()
            except InputError as error:
                assert "at work on it" in str(error)
                return False
            return True

        takers = [Lease(store, "r1") for _ in range(NUM_TAKERS)]
        with ThreadPoolExecutor(NUM_TAKERS) as pool:
            assert sorted(pool.map(take, takers)) == [False] * (NUM_TAKERS - 1) + [True]
        for taker in takers:
            taker.close()
        assert is_deserted(store)

    def test_two_of_one_process_are_told_apart(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            with pytest.raises(InputError, match="at work on it"):
                lease(store).take()

    def test_what_this_process_could_not_give_back_is_its_own(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            left = store.read(FIRST)
        store.write(FIRST, left)
        with closing(lease(store)) as again:
            again.take()
            assert holder(store).token != Holder.model_validate_json(left).token

    def test_a_killed_driver_is_followed_at_once(self, store: Store):
        killed_holder(store)
        with closing(Lease(store, "r1", BEAT_S, watch_s=1e9)) as mine:
            mine.take()
        assert is_deserted(store)

    def test_a_dead_driver_of_another_machine_is_followed_after_a_while(self, store: Store):
        store.write(FIRST, on_another_machine(killed_holder(store)).model_dump_json().encode())
        with closing(lease(store)) as mine:
            mine.take()
            assert holder(store).process.host != "far"

    def test_a_driver_of_another_machine_that_beats_is_refused(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            mine._mine = on_another_machine(mine._mine)
            wait_until(lambda: holder(store).process.host == "far")
            with pytest.raises(InputError, match="on far"):
                lease(store).take()

    def test_a_driver_that_was_taken_over_ends_and_leaves_the_other_alone(self, store: Store):
        with closing(lease(store)) as silent:
            silent.take()
            other = on_another_machine(holder(store)).model_copy(update={"token": "other"})

            def ends_at_the_others_beat() -> bool:
                store.write(SECOND, other.model_dump_json().encode())
                return knows(silent)

            wait_until(ends_at_the_others_beat)
            with pytest.raises(RunFailedError, match="taken it over"):
                silent.check()
        assert holder(store) == other

    def test_a_driver_that_was_taken_over_by_one_that_has_ended_does_not_come_back(self, store: Store):
        with closing(lease(store)) as silent:
            silent.take()
            ended = holder(store).model_copy(update={"token": "other", "is_released": True})
            store.write(SECOND, ended.model_dump_json().encode())
            silent.look()
            assert silent.lost
        with closing(lease(store)) as next_one:
            next_one.take()
            assert store.keys(FOLDER) == [key_of(3)], "no number comes twice"

    def test_workers_of_a_driver_that_was_taken_over_change_nothing(self, store: Store, tmp_path: Path):
        (tmp_path / "file").write_bytes(b"new")
        with closing(lease(store)) as asleep:
            asleep.take()
            theirs = open_fenced(store.uri, asleep.fence).child("checkpoints")
            theirs.write("a", b"old")
            theirs.create("b", b"old")
            theirs.upload(tmp_path / "file", "c")
            theirs.delete("c")
            store.write(SECOND, store.read(FIRST))
            for change in (
                lambda: theirs.write("a", b"new"),
                lambda: theirs.create("d", b"new"),
                lambda: theirs.upload(tmp_path / "file", "a"),
                lambda: theirs.delete("a"),
            ):
                with pytest.raises(StoreError, match=r"^r1: another raylora command has taken it over"):
                    change()
            keys = theirs.keys()
            assert {key: theirs.read(key) for key in keys} == {"a": b"old", "b": b"old"}

    def test_workers_whose_place_others_have_taken_change_nothing(self, store: Store):
        with closing(lease(store)) as driver:
            driver.take()

            def workers(work: str) -> Store:
                return open_fenced(store.uri, replace(driver.fence, group=enter(driver.fence, work)))

            frozen, beside = workers("pack-1").child("checkpoints"), workers("pack-10").child("checkpoints")
            frozen.write("a", b"old")
            new = workers("pack-1").child("checkpoints")
            for change in (
                lambda: frozen.write("a", b"late"),
                lambda: frozen.create("d", b"late"),
                lambda: frozen.delete("a"),
            ):
                with pytest.raises(StoreError, match=r"^r1: newer workers have taken it over"):
                    change()
            new.write("b", b"new")
            beside.write("c", b"beside")
            keys = new.keys()
            assert {key: new.read(key) for key in keys} == {"a": b"old", "b": b"new", "c": b"beside"}
            driver.check_now()
        with closing(lease(store)) as next_driver:
            next_driver.take()
            assert store.keys(FOLDER) == [SECOND]

    def test_a_lease_that_was_given_back_is_taken_again(self, store: Store):
        for number in (1, 2, 3):
            with closing(lease(store)) as mine:
                mine.take()
                assert store.keys(FOLDER) == [key_of(number)]
            assert is_deserted(store)

    def test_what_cannot_be_read_holds_nothing(self, store: Store):
        store.write(FIRST, b"{")
        with closing(lease(store)) as mine:
            mine.take()
        assert is_deserted(store)
