"""The line of events from the workers to the driver, in this process: what is told again, and what is forgotten."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any
from weakref import ref

from raylora.runtime.cluster.mailbox import Job, Mailbox, PackJob
from raylora.store.fence import Fence
from raylora.train.events import Event
from tests.unit.model.tiny import spec_of
from tests.unit.runtime.handles import Handle

PATIENCE_S = 30.0


async def told(mailbox: Mailbox, num_seen: int) -> list[int]:
    """Steps of the events that a driver is told; it does not wait for more."""
    return [event.step for event in await mailbox.after(num_seen, 0.0)]


def test_events_come_in_order_and_again_until_they_are_confirmed():
    async def play() -> None:
        mailbox = Mailbox()
        assert await told(mailbox, 0) == []
        for step in (1, 2, 3):
            await mailbox.put(Event("step", step, {}))
        assert await told(mailbox, 0) == [1, 2, 3]
        assert await told(mailbox, 0) == [1, 2, 3]
        await mailbox.put(Event("step", 4, {}))
        assert await told(mailbox, 2) == [3, 4]
        assert await told(mailbox, 4) == []
        await mailbox.put(Event("step", 5, {}))
        assert await told(mailbox, 4) == [5]

    asyncio.run(play())


def test_a_driver_that_waits_hears_of_an_event_at_once():
    async def play() -> None:
        mailbox = Mailbox()
        await mailbox.put(Event("step", 1, {}))
        waiting = asyncio.create_task(mailbox.after(1, 10 * PATIENCE_S))
        await asyncio.sleep(0)
        assert not waiting.done()
        await mailbox.put(Event("step", 2, {}))
        assert [event.step for event in await asyncio.wait_for(waiting, PATIENCE_S)] == [2]

    asyncio.run(play())


def test_what_the_driver_has_is_forgotten():
    async def play() -> None:
        mailbox, kept = Mailbox(), list[ref[Event]]()
        for step in (1, 2, 3):
            event = Event("step", step, {})
            kept.append(ref(event))
            await mailbox.put(event)
        del event
        await mailbox.after(0, 0.0)
        await mailbox.after(2, 0.0)
        gc.collect()
        assert [each() is None for each in kept] == [True, True, False]

    asyncio.run(play())


def test_who_waits_for_the_driver_goes_on_when_it_has_confirmed_what_was_there():
    async def play() -> None:
        mailbox = Mailbox()
        assert await mailbox.confirmed(0.0), "there is nothing to confirm"
        for step in (1, 2):
            await mailbox.put(Event("step", step, {}))
        assert not await mailbox.confirmed(0.0)
        waiting = [asyncio.create_task(mailbox.confirmed(10 * PATIENCE_S)) for _ in range(2)]
        await asyncio.sleep(0)
        await mailbox.put(Event("step", 3, {}))
        await mailbox.after(1, 0.0)
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting), "the second event is still to be had"
        await mailbox.after(2, 0.0)
        assert await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S) == [True, True]
        assert not await mailbox.confirmed(0.01), "the third came later"

    asyncio.run(play())


def test_the_desk_of_a_pack_is_told_that_its_workers_are_gone():
    async def play() -> None:
        missed: list[int] = []

        async def miss_pack(pack: int) -> None:
            missed.append(pack)

        desk: Any = Handle(SimpleNamespace(miss_pack=miss_pack))
        fence, spec = Fence("store", 1, "s1"), spec_of("base")
        mailbox = Mailbox()
        await mailbox.miss_workers()  # they wait for their job
        await mailbox.post_job(Job(spec, "run", "store", fence))
        await mailbox.miss_workers()  # a run has no desk
        assert missed == []
        await mailbox.post_job(
            PackJob(3, "key", 1, spec, "store", fence, desk, 1, slots_stay_on_ranks=False, calibrates=False)
        )
        await mailbox.miss_workers()
        assert missed == [3]

    asyncio.run(play())


def test_a_wish_to_save_is_told_once_and_counted_when_it_is_done():
    async def play() -> None:
        mailbox = Mailbox()
        assert await mailbox.wish() is None
        assert await mailbox.ask_save() == 0
        assert [await mailbox.wish() for _ in range(2)] == ["save", None]
        await mailbox.put(Event("checkpoint", 1, {}))
        assert await mailbox.num_saves() == 0, "another checkpoint is no answer"
        await mailbox.put(Event("saved", 1, {}))
        assert await mailbox.num_saves() == await mailbox.ask_save() == 1

    asyncio.run(play())


def test_a_wish_to_stop_stays_and_goes_before_one_to_save():
    async def play() -> None:
        mailbox = Mailbox()
        await mailbox.ask_save()
        await mailbox.ask_stop()
        await mailbox.ask_save()
        assert [await mailbox.wish() for _ in range(2)] == ["stop", "stop"]

    asyncio.run(play())
