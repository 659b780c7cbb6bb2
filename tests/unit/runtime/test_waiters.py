"""Threads that wait under one lock: who is woken, and when."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from raylora.runtime.pack.waiters import Waiters

PATIENCE_S = 30.0


def test_a_change_wakes_those_whom_it_concerns_and_no_other():
    waiters, reached, asked_by = Waiters(), set[int](), Counter[int]()
    waiting, num_waiters, num_changes = threading.Semaphore(0), 8, 20

    def wait(number: int) -> None:
        def is_reached() -> bool:
            asked_by[threading.get_ident()] += 1
            return number in reached

        with waiters:
            waiting.release()
            waiters.wait_for(is_reached)

    with ThreadPoolExecutor(num_waiters) as pool:
        ends = [pool.submit(wait, number) for number in range(num_waiters)]
        for _ in range(num_waiters):
            assert waiting.acquire(timeout=PATIENCE_S)
        for _ in range(num_changes):  # of nobody's concern
            with waiters:
                waiters.wake()
        for number, end in enumerate(ends):
            with waiters:
                reached.add(number)
                waiters.wake()
            end.result(PATIENCE_S)
    mine = asked_by.pop(threading.get_ident())
    assert mine >= num_changes * num_waiters
    assert set(asked_by.values()) == {2}, "each looked before it slept, and when its wait was over"


def test_a_wait_ends_when_time_is_up():
    waiters = Waiters()
    with waiters:
        waiters.wait_for(lambda: False, 0.01)
        with waiters:  # a thread may take it again
            waiters.wake()
