"""What a lease promises on any store. Each store's tests derive a class from this one and give it a fixture `store`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from raylora.errors import InputError, RunFailedError
from raylora.store.blob import Store
from raylora.store.lease import KEY, Holder, Lease

BEAT_S, WATCH_S = 0.05, 1.0

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
    return Holder.model_validate_json(store.read(KEY))


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


class LeaseSuite:
    def test_it_is_taken_and_given_back(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            mine.take()
            wait_until(lambda: holder(store).num_beats > 3)
            mine.check()
        assert store.keys() == []

    def test_one_that_was_never_taken_leaves_others_alone(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            lease(store).close()
            assert store.keys() == [KEY]

    def test_a_driver_that_lives_is_named(self, store: Store):
        with other_driver(store) as process:
            with pytest.raises(InputError, match=rf"^run r1: .*process {process.pid} on .*wait for its end.*kill"):
                lease(store).take()
            assert holder(store).process.pid == process.pid

    def test_two_of_one_process_are_told_apart(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            with pytest.raises(InputError, match="at work on it"):
                lease(store).take()

    def test_what_this_process_could_not_give_back_is_its_own(self, store: Store):
        with closing(lease(store)) as mine:
            mine.take()
            left = store.read(KEY)
        store.write(KEY, left)
        with closing(lease(store)) as again:
            again.take()
            assert holder(store).token != Holder.model_validate_json(left).token

    def test_a_killed_driver_is_followed_at_once(self, store: Store):
        killed_holder(store)
        with closing(Lease(store, "r1", BEAT_S, watch_s=1e9)) as mine:
            mine.take()
        assert store.keys() == []

    def test_a_dead_driver_of_another_machine_is_followed_after_a_while(self, store: Store):
        store.write(KEY, on_another_machine(killed_holder(store)).model_dump_json().encode())
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
                store.write(KEY, other.model_dump_json().encode())
                return silent.lost

            wait_until(ends_at_the_others_beat)
            with pytest.raises(RunFailedError, match="taken it over"):
                silent.check()
        assert holder(store) == other

    def test_a_driver_that_was_taken_over_by_one_that_has_ended_does_not_come_back(self, store: Store):
        with closing(lease(store)) as silent:
            silent.take()

            def ends_without_the_others_name() -> bool:
                store.delete(KEY)
                return silent.lost

            wait_until(ends_without_the_others_name)
        assert store.keys() == []

    def test_what_cannot_be_read_holds_nothing(self, store: Store):
        store.write(KEY, b"{")
        with closing(lease(store)) as mine:
            mine.take()
        assert store.keys() == []
