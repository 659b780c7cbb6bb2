"""The line between the workers and the driver: events one way, the job and wishes the other.

An actor without a core of its own. Workers start and import while the driver still checks the run; they wait
here for the job. Afterwards rank 0 writes and the driver reads; both may lag without hurting a step. Its process
starts beside theirs, on the same cores, and so nothing is imported here that imports torch.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.runtime.cluster.environment import Environment
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.train.events import Event, Wish


@dataclass(frozen=True)
class Job:
    """One run, as a worker is told.

    Args:
        spec: The run.
        run_id: Its name in the store.
        store_uri: The store of all runs.
        fence: Of its driver.
    """

    spec: RunSpec
    run_id: str
    store_uri: str
    fence: Fence


@dataclass(frozen=True)
class PackJob:
    """Many runs on one base, as a worker is told.

    Args:
        pack: Number of the pack, by which the desk knows it.
        key: Runs with this key fit into it.
        num_slots: Runs at once at most.
        spec: What its runs share: base, strategy, workers.
        store_uri: The store of all runs.
        fence: Of the sweep's driver.
        desk: Gives out runs and takes their reports.
        report_steps: Optimizer steps of a run between its reports.
        slots_stay_on_ranks: Each worker trains runs of its own, instead of its part of every run's rows.
        calibrates: Whether it may offer fewer slots, where this machine is faster with fewer.
        repeats: Runs of a trial, which train side by side: it offers a multiple of so many slots.
        likely: Runs like those that will come, by which it may measure how many slots are fastest.
    """

    pack: int
    key: str
    num_slots: int
    spec: RunSpec
    store_uri: str
    fence: Fence
    desk: ActorHandle[Any]
    report_steps: int
    slots_stay_on_ranks: bool
    calibrates: bool
    repeats: int = 1
    likely: tuple[RunSpec, ...] = ()


class Mailbox:
    """What lies between. It is made of nothing: Ray's head keeps the arguments that an actor is made with."""

    def __init__(self) -> None:
        self._environment: Environment = {}
        self._is_equipped = asyncio.Event()
        self._job: Job | PackJob | None = None
        self._posted = asyncio.Event()
        self._events: list[Event] = []
        self._num_forgotten = 0
        self._arrived = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._wish: Wish | None = None
        self._num_saves = 0
        self._controller: ActorHandle[Any] | None = None
        self._introduced = asyncio.Event()

    async def introduce(self, controller: ActorHandle[Any]) -> None:
        """Note Ray Train's controller of the run."""
        self._controller = controller
        self._introduced.set()

    async def controller(self) -> ActorHandle[Any] | None:
        """Ray Train's controller; waits until there is one."""
        await self._introduced.wait()
        return self._controller

    async def equip(self, environment: Environment) -> None:
        """Keep the workers' variables, credentials among them."""
        self._environment = environment
        self._is_equipped.set()

    async def environment(self) -> Environment:
        """The workers' variables; waits until they are there."""
        await self._is_equipped.wait()
        return self._environment

    async def post_job(self, job: Job | PackJob) -> None:
        """Let the workers begin."""
        self._job = job
        self._posted.set()

    async def job(self) -> Job | PackJob | None:
        """The job; waits until there is one."""
        await self._posted.wait()
        return self._job

    async def miss_workers(self) -> None:
        """Tell the desk of a pack that its workers are gone: it waits for none of them before others are there."""
        if isinstance(self._job, PackJob):
            await self._job.desk.miss_pack.remote(self._job.pack)

    async def put(self, event: Event) -> None:
        """Take an event from a worker."""
        self._events.append(event)
        self._num_saves += event.kind == "saved"
        self._arrived.set()

    async def after(self, num_seen: int, timeout_s: float) -> list[Event]:
        """Events beyond the first ``num_seen``, which are forgotten; waits for one up to the time-out.

        A pack tells of thousands of trials. What its driver has not confirmed is told again.

        Args:
            num_seen: Events that the caller has had, never fewer than before.
            timeout_s: Longest wait in seconds.
        """
        del self._events[: num_seen - self._num_forgotten]
        self._num_forgotten = num_seen
        self._confirmed.set()
        if not self._events:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return []
        return list(self._events)

    async def confirmed(self, timeout_s: float) -> bool:
        """Wait until the driver has had every event that is here now; whether it has.

        Args:
            timeout_s: Longest wait in seconds.
        """
        due = self._num_forgotten + len(self._events)
        try:
            async with asyncio.timeout(timeout_s):
                while self._num_forgotten < due:
                    self._confirmed.clear()
                    await self._confirmed.wait()
        except TimeoutError:
            return False
        return True

    async def ask_stop(self) -> None:
        """Ask the workers to save and end."""
        self._wish = "stop"

    async def ask_save(self) -> int:
        """Ask the workers to save and go on; returns how often they have done so."""
        if self._wish is None:
            self._wish = "save"
        return self._num_saves

    async def num_saves(self) -> int:
        """How often the workers have saved because they were asked to."""
        return self._num_saves

    async def wish(self) -> Wish | None:
        """What somebody asked for; to save is asked once, to stop again and again."""
        wish = self._wish
        if wish == "save":
            self._wish = None
        return wish


def open_mailbox(environment: Environment) -> ActorHandle[Mailbox]:
    """Start a mailbox; it ends with the driver, and lies on its node: the loss of another loses no run.

    Args:
        environment: Variables for the workers.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here)
    mailbox = cast("ActorHandle[Mailbox]", actor.remote())
    mailbox.equip.remote(environment)
    return mailbox


class MailboxHandler(logging.Handler):
    """Log records of a worker become events, so that they reach the user in order and once.

    Args:
        mailbox: The run's mailbox.
        rank: Of this worker, put before its lines.
    """

    def __init__(self, mailbox: ActorHandle[Mailbox], rank: int) -> None:
        super().__init__()
        self._mailbox, self._rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        values: dict[str, Any] = {"level": record.levelno, "text": f"rank {self._rank}: {record.getMessage()}"}
        self._mailbox.put.remote(Event("log", 0, values))
