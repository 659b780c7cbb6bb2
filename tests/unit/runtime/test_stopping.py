"""Real signals to this process: the first is a wish, the second an end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from raylora.runtime.stopping import stop_wish

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@BOTH
def test_before_there_is_something_to_save_the_first_signal_ends(number: signal.Signals):
    with stop_wish() as wish, pytest.raises(KeyboardInterrupt):
        send(number)
    assert not wish.asked


@BOTH
def test_the_first_is_a_wish_and_the_second_an_end(number: signal.Signals):
    with stop_wish() as wish:
        wish.patient = True
        send(number)
        assert wish.asked
        with pytest.raises(KeyboardInterrupt):
            send(number)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_wish():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_listens_to_nothing():
    asked: list[bool] = []

    def run() -> None:
        with stop_wish() as wish:
            asked.append(wish.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]
