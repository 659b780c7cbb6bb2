"""How Tune's controller gets its trainables: not a process for each, but a seat in the host.

Tune asks a resource manager for room, and what that returns makes the trainable. This one has as many seats as there
are slots, needs nothing of the cluster (no core, no placement group: it works where all cores are taken by the packs),
and makes trainables inside the host. Searchers, schedulers and the controller are Tune's own. Called by `drive.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.air.execution import AcquiredResources, ResourceManager, ResourceRequest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.result import TRIAL_INFO
from typing_extensions import override

from raylora.sweep.steering.host import Host


class Seats(ResourceManager):
    """Room for as many trials at once as there are slots for.

    Args:
        host: Where trainables are made.
        num_seats: Trials at once.
        number_of: Number of a trial, by Tune's name of it.
    """

    def __init__(self, host: ActorHandle[Host], num_seats: int, number_of: Callable[[str], int]) -> None:
        self._host, self._num_seats, self._number_of = host, num_seats, number_of
        self._requested: list[ResourceRequest] = []
        self._num_taken = 0
        self._num_orders = 0
        self._serial = itertools.count()
        self._said: tuple[int, int] | None = None
        self._controller: TuneController | None = None
        self._heard: dict[str, dict[str, int]] = {}

    def serve(self, controller: TuneController) -> None:
        """Note the controller that asks; and, of a search that goes on, what it was told before."""
        self._controller = controller
        for trial in controller.get_trials():  # of a new search there are none yet
            told = (trial.last_result or {}).get("repeats", ())
            self._heard[trial.trial_id] = {each["run_id"]: each["step"] for each in told}

    def close(self) -> None:
        """Give no seat any more."""
        self._num_seats = 0

    @override
    def request_resources(self, resource_request: ResourceRequest) -> None:
        self._requested.append(resource_request)

    @override
    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        self._requested.remove(resource_request)

    @override
    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        return resource_request in self._requested and self._num_taken < self._num_seats

    @override
    def acquire_resources(self, resource_request: ResourceRequest) -> AcquiredResources | None:
        if not self.has_resources_ready(resource_request):
            return None
        self._requested.remove(resource_request)
        self._num_taken += 1
        return _Seat(resource_request, self)

    @override
    def free_resources(self, acquired_resource: AcquiredResources) -> None:
        self._num_taken -= 1

    @override
    def clear(self) -> None:
        self._requested = []
        self._num_taken = 0

    @override
    def get_resource_futures(self) -> list[ray.ObjectRef[Any]]:
        """No room is ever waited for. Tune asks this last before it waits for an answer, so the desk hears of it."""
        self._tell_desk()
        return []

    def make(self, made_with: dict[str, Any]) -> _Lessee:
        """Make a trainable in the host."""
        trial_id = made_with["config"][TRIAL_INFO].trial_id
        number = self._number_of(trial_id)
        # Once only: later it may go on from another trial's save.
        heard = self._heard.pop(trial_id, None)
        return _Lessee(self, f"trial{number}-{next(self._serial)}", number, made_with, heard)

    def begin(
        self, name: str, number: int, made_with: dict[str, Any], heard: dict[str, int] | None
    ) -> ray.ObjectRef[Any]:
        """Send the order to make a lease.

        Args:
            name: Of the lease.
            number: Of the trial.
            made_with: What Tune makes a trainable with.
            heard: Of a trial of an earlier process, the step of each run's last report that Tune knows.
        """
        self._num_orders += 1
        return cast("ray.ObjectRef[Any]", self._host.make.remote(name, number, made_with, heard))

    def order(self, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ray.ObjectRef[Any]:
        """Send an order to a lease.

        Args:
            name: Of the lease.
            method: Of the lease; those whose answer Tune waits for are counted.
            args: Its arguments by place.
            kwargs: Its arguments by name.
        """
        if method in _ORDERS:
            self._num_orders += 1
            return cast("ray.ObjectRef[Any]", self._host.order.remote(name, method, args, kwargs))
        return cast("ray.ObjectRef[Any]", self._host.ask.remote(name, method, args, kwargs))

    def _tell_desk(self) -> None:
        """Say how many orders are open, if Tune has taken in every answer there is."""
        if self._controller is None:
            return
        actors = self._controller._actor_manager
        pending = [*actors._actor_task_events.get_futures(), *actors._actor_state_events.get_futures()]
        if pending and ray.wait(pending, num_returns=1, timeout=0)[0]:
            return
        if (said := (self._num_orders, len(pending))) != self._said:
            self._said = said
            self._host.settle.remote(*said)


_ORDERS = frozenset({"train", "save", "restore", "stop"})
"""Calls whose answer Tune waits for; it reads the others' when it likes."""


@dataclass
class _Seat(AcquiredResources):
    """What Tune is given; it makes one trainable."""

    seats: Seats

    @override
    def annotate_remote_entities(self, entities: list[Any]) -> list[Any]:
        return [self]

    def remote(self, **made_with: Any) -> _Lessee:
        """Make the trainable, as a Ray actor's class would."""
        return self.seats.make(made_with)


class _Lessee:
    """A lease in the host, called as a Ray actor is: its methods' `remote` return futures."""

    def __init__(
        self, seats: Seats, name: str, number: int, made_with: dict[str, Any], heard: dict[str, int] | None
    ) -> None:
        self._seats, self._name = seats, name
        self.__ray_ready__ = _Method(lambda: seats.begin(name, number, made_with, heard))

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("__"):
            raise AttributeError(method)
        return _Method(lambda *args, **kwargs: self._seats.order(self._name, method, args, kwargs))


class _Method:
    def __init__(self, call: Callable[..., ray.ObjectRef[Any]]) -> None:
        self.remote = call
