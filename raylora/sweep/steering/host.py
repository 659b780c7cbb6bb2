"""One process for all leases of a sweep and for their desk: an actor without a core of its own.

Tune's calls come from the driver (`seats.py`), packs' calls from rank 0 of their worker groups; each waits in a thread
of its own. One process that imports Ray Tune once, instead of one for each trial, is what makes a sweep start at once.
"""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.runtime.cluster.desk_messages import Close, Command, Report
from raylora.runtime.cluster.environment import Environment, put_on
from raylora.runtime.pack.desk import Desk
from raylora.sweep.steering.lease import Lease, Trials

OWN_FOLDERS = "RAY_CHDIR_TO_TRIAL_DIR"
"""Ray Tune's variable: whether a trainable moves its process into the trial's folder."""

SPARE_THREADS = 16
"""Beside two calls for each trial (one that trains, one that saves) and one for each pack."""


class Host:
    """The desk, and the leases that Tune calls.

    It is made of nothing: Ray's head keeps the arguments that an actor is made with.
    """

    def __init__(self) -> None:
        os.environ[OWN_FOLDERS] = "0"  # a process has one working directory, whatever its trials would like
        self._desk = Desk()
        self._leases: dict[str, Lease] = {}
        self._trials: Trials | None = None
        self._groups: dict[int, str] = {}
        self._opening = threading.Lock()

    # Tune's side.

    def prepare(self, environment: Environment, trials: Trials) -> None:
        """Take what leases need, credentials of the store among it, before the first of them.

        Args:
            environment: Variables for this process, which S3 and others read.
            trials: How trials are made into runs.
        """
        put_on(environment)
        self._trials = trials

    def make(self, name: str, number: int, made_with: dict[str, Any], heard: dict[str, int] | None) -> None:
        """Make the lease of a trial.

        Args:
            name: Of the lease.
            number: Of the trial.
            made_with: What Tune makes a trainable with.
            heard: See `Lease`.
        """
        self._desk.begin_order()
        assert self._trials is not None  # prepare() comes first
        config, storage = made_with["config"], made_with["storage"]
        self._leases[name] = Lease(config, storage, self._desk, self._trials, number, name, heard)

    def order(self, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a lease, and count it.

        Args:
            name: Of the lease; after ``stop`` nobody has it.
            method: Of the lease, one whose answer Tune waits for.
            args: Its arguments by place.
            kwargs: Its arguments by name.
        """
        self._desk.begin_order()
        lease = self._leases.pop(name) if method == "stop" else self._leases[name]
        return getattr(lease, method)(*args, **kwargs)

    def ask(self, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a lease for something that Tune does not wait for.

        Args:
            name: Of the lease. A question may come after the ``stop`` that was sent after it, when nobody has the lease
                any more, and its answer is looked at all the same: it is empty.
            method: Of the lease.
            args: Its arguments by place.
            kwargs: Its arguments by name.
        """
        lease = self._leases.get(name)  # looked up once: another thread may stop it meanwhile
        return {} if lease is None else getattr(lease, method)(*args, **kwargs)

    def settle(self, num_orders: int, num_open: int) -> None:
        """See `Desk.settle`.

        Args:
            num_orders: Orders given since the beginning.
            num_open: Those of them whose answer is waited for.
        """
        self._desk.settle(num_orders, num_open)

    def keep_step(self) -> None:
        """See `Desk.in_step`."""
        self._desk.in_step = True

    def halt(self) -> None:
        """See `Desk.halt`."""
        self._desk.halt()

    def settled(self) -> bool:
        """See `Desk.settled`."""
        return self._desk.settled()

    def waiting(self) -> dict[str, int]:
        """See `Desk.waiting`."""
        return self._desk.waiting()

    def held(self) -> dict[int, int]:
        """See `Desk.held`."""
        return self._desk.held()

    def away(self) -> list[int]:
        """See `Desk.away`."""
        return self._desk.away()

    def close_pack(self, pack: int) -> None:
        """See `Desk.close_pack`."""
        self._desk.close_pack(pack)

    # The packs' side.

    def open_pack(self, pack: int, group: str, key: str, num_slots: int) -> None:
        """See `Desk.open_pack`; for a group of workers that do not know the leases of those before.

        Args:
            pack: Its number, which groups of workers that come one after the other share.
            group: Of workers, as their fence has it; one in whose place another has come opens nothing.
            key: Leases with this key fit.
            num_slots: Slots.
        """
        with self._opening:
            if group < self._groups.get(pack, ""):
                return
            self._groups[pack] = group
            self._desk.lose_pack(pack, "its workers were restarted", again=True)
            self._desk.open_pack(pack, key, num_slots)

    def exchange(self, pack: int, group: str, reports: list[Report], wait: bool) -> list[Command]:
        """See `Desk.exchange`; a group in whose place another has come is told to end, and takes none of its commands.

        Args:
            pack: Its number.
            group: That asks.
            reports: Of this turn, in any order.
            wait: Whether the pack has nothing to train.
        """
        return self._desk.exchange(pack, reports, wait) if group == self._groups.get(pack) else [Close()]

    def miss_pack(self, pack: int) -> None:
        """See `Desk.miss_pack`.

        Args:
            pack: Its number.
        """
        self._desk.miss_pack(pack)

    def lose_pack(self, pack: int, reason: str | None, again: bool) -> None:
        """See `Desk.lose_pack`.

        Args:
            pack: Its number.
            reason: What to tell of leases that can go on nowhere; ``None`` where another pack may come for them.
            again: Whether the group is started once more.
        """
        self._desk.lose_pack(pack, reason, again)

    def refuse(self, key: str, reason: str) -> None:
        """See `Desk.refuse`.

        Args:
            key: Of the pack that will not come.
            reason: What to tell.
        """
        self._desk.refuse(key, reason)

    def close(self) -> None:
        """See `Desk.close`."""
        self._desk.close()


def open_host(num_leases: int, num_packs: int) -> ActorHandle[Host]:
    """Start a host; it ends with the driver, and lies on its node.

    Args:
        num_leases: Trials at once.
        num_packs: Packs at once.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    threads = 2 * num_leases + num_packs + SPARE_THREADS
    actor = ray.remote(num_cpus=0)(Host).options(scheduling_strategy=here, max_concurrency=threads)
    return cast("ActorHandle[Host]", actor.remote())
