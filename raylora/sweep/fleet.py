"""The packs of a sweep: opened for leases that wait, as many as planned and as find room; closed when others need it.

The first starts before any run is drawn, for one that is likely, so that its workers import while the driver checks.
Called by the launcher between Tune's steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import cast

import ray
from ray.actor import ActorHandle

from raylora.errors import InputError, LostClusterError, RayloraError, UnusableStoreError
from raylora.log import get_logger
from raylora.runtime.cluster.cluster import check_places, free_places, worker_resources
from raylora.runtime.cluster.gangs import Gang, gang_of, waits_for_places, without_places
from raylora.runtime.cluster.growth import can_grow
from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.pack_group import PackGroup
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.sweep.absences import COMING_S, Absences
from raylora.sweep.openings import Closing, Opening, next_move
from raylora.sweep.planning.berths import Berth
from raylora.sweep.steering.host import Host
from raylora.train.events import Event

log = get_logger(__name__)

TEND_S = 0.5
"""Time between two looks at the packs. Leases without a pack wait for it alone, and those wait for seconds anyway; each
look takes time of processes on the packs' cores."""

END_PATIENCE_S = 60.0
"""For workers that were told to end, to check the base and leave."""

OPEN_PATIENCE_S = 2.0
"""A lease has its slot in milliseconds where one is free; one that waits longer is worth another pack."""

LOOK_S = 10.0
"""Time between two looks whether packs lack their places."""


class Fleet:
    """The packs that are there.

    Args:
        host: Of the leases.
        report_steps: Optimizer steps of a run between its reports.
        listen: Told of every event of every run, with the number of its pack.
        first: Number of its first pack; a sweep that goes on has had others.
    """

    def __init__(
        self, host: ActorHandle[Host], report_steps: int, listen: Callable[[int, Event], None], first: int = 0
    ) -> None:
        self._host, self._report_steps, self._listen = host, report_steps, listen
        self._packs: dict[int, tuple[str, PackGroup]] = {}
        self._gangs: dict[int, Gang] = {}
        self._broken: dict[str, str] = {}
        self._looked_for: set[str] = set()
        self._may_grow = self._is_ending = False
        self._waits_since: dict[str, float] = {}
        self._lacks_since: dict[int, float] = {}
        self._absences = Absences()
        self._next = first
        self._tended_at = self._looked_at = -math.inf
        self._store: tuple[str, Fence] | None = None

    def start(self, key: str, spec: RunSpec) -> int:
        """Start a pack's workers; they load nothing before they are told to begin.

        Args:
            key: Of its runs.
            spec: What they share.

        Returns:
            The pack's number.
        """
        number, self._next = self._next, self._next + 1
        self._packs[number], self._gangs[number] = (key, PackGroup(spec)), gang_of(spec)
        return number

    def begin(self, store_uri: str, fence: Fence, berths: Mapping[str, Berth]) -> None:
        """Let the workers that wait begin.

        Args:
            store_uri: The store of all runs.
            fence: Of this driver.
            berths: By key.
        """
        self._store = store_uri, fence
        for number, (key, _) in self._packs.items():
            self._begin(number, key, berths[key])

    def hear(self) -> None:
        """Pass on what the packs have told so far."""
        for number, (_, group) in self._packs.items():
            self._pass_on(number, group)

    def tend(self, berths: Mapping[str, Berth]) -> None:
        """Pass events on, note groups that ended, and open packs for leases that wait; not oftener than it is worth.

        Args:
            berths: By key, of all runs so far.

        Raises:
            LostClusterError: A pack lost Ray Train's controller, or nothing can train without nodes that were lost.
            UnusableStoreError: A pack could keep nothing.
        """
        now = time.monotonic()
        if now < self._tended_at + TEND_S:
            return
        self._tended_at = now
        self._look()
        if now >= self._looked_at + LOOK_S:
            self._looked_at = now
            self._look_for_absent(now)
        waiting = cast("dict[str, int]", ray.get(self._host.waiting.remote()))
        self._waits_since = {key: self._waits_since.get(key, now) for key in waiting}
        held = self._held() if waiting else {}
        self._lacks_since = self._lacks_since if waiting else {}  # nobody looks on
        for key, num_lacking in waiting.items():
            if now - self._waits_since[key] >= OPEN_PATIENCE_S:
                self._serve(key, num_lacking, berths, held)

    def end(self) -> None:
        """Tell all packs that no run comes any more, and wait for their end; those that only start are cut off."""
        self._is_ending = True
        ray.get(self._host.close.remote())
        held = self._held()
        for number in [number for number in self._packs if number not in held]:
            self._packs.pop(number)[1].close()
        deadline = time.monotonic() + END_PATIENCE_S
        while self._packs and time.monotonic() < deadline:
            self._look()
            time.sleep(0.05)

    def close(self) -> None:
        """End all packs, in good order or not."""
        for _, group in self._packs.values():
            group.close()
        self._packs = {}

    def _look(self) -> None:
        for number, (key, group) in list(self._packs.items()):
            is_running = group.running
            self._pass_on(number, group)
            if not is_running:
                self._note_end(number, key, group)

    def _pass_on(self, number: int, group: PackGroup) -> None:
        for event in group.events():
            self._listen(number, event)

    def _begin(self, number: int, key: str, berth: Berth) -> None:
        assert self._store is not None
        store_uri, fence = self._store
        job = PackJob(
            pack=number,
            key=key,
            num_slots=berth.num_slots,
            spec=berth.spec,
            store_uri=store_uri,
            fence=fence,
            desk=self._host,
            report_steps=self._report_steps,
            slots_stay_on_ranks=berth.slots_stay_on_ranks,
            calibrates=berth.calibrates,
            repeats=berth.repeats,
            likely=berth.likely,
        )
        self._packs[number][1].begin(job)

    def _held(self) -> dict[int, int]:
        return cast("dict[int, int]", ray.get(self._host.held.remote()))

    def _note_end(self, number: int, key: str, group: PackGroup) -> None:
        """Take leave of a group; where it failed, its leases go on in another like it, or fail.

        Raises:
            LostClusterError: Ray Train's controller died: what it had reserved is free when this driver has ended.
            UnusableStoreError: The workers could keep nothing: whatever trained in their place would fail as well.
        """
        try:
            group.check()
        except RayloraError as error:
            is_unusable = isinstance(error, UnusableStoreError)
            if (group.lost_controller or is_unusable) and not self._is_ending:
                kind = UnusableStoreError if is_unusable else LostClusterError
                raise kind(f"pack {number}: {error}; `raylora resume` goes on with the sweep") from error
            log.warning("pack %d: %s", number, error)
            self._broken[key] = str(error)
            # It may have failed before it offered a slot: then the desk knows its key alone.
            ray.get([self._host.lose_pack.remote(number, str(error), False), self._host.refuse.remote(key, str(error))])
        group.close()
        del self._packs[number], self._gangs[number]

    def _look_for_absent(self, now: float) -> None:
        """Let trials go on elsewhere whose pack waits for nodes, where they can.

        Raises:
            LostClusterError: They cannot, and no others have trained for long.
        """
        away = set(cast("list[int]", ray.get(self._host.away.remote())))
        self._absences.look(self._gangs, away, now)
        if not away:
            return
        held = self._held()
        at_work = {number for number in held if number not in away and number in self._packs}
        for number in self._absences.gone(now):
            key = self._packs[number][0]
            if key in {self._packs[other][0] for other in at_work} or self._gangs[number].could_be():
                self._let_go(number)
            else:
                self._absences.tell(number)
        is_training = any(held[number] for number in at_work) or not self._packs.keys() <= held.keys() | away
        if self._absences.are_final(is_training, now) and not can_grow():
            raise LostClusterError(
                "the nodes of the packs that still have trials to train are gone, and those that are left cannot hold "
                "them; add nodes, then `raylora resume` goes on with the sweep"
            )

    def _let_go(self, number: int) -> None:
        """Give a pack up whose nodes did not come back: its leases go on in others, from their last saves."""
        log.warning("pack %d: its nodes did not come back; its trials go on in other packs", number)
        _, group = self._packs.pop(number)
        group.close()  # first: workers that come now would take leases of a pack that is none any more
        ray.get(self._host.lose_pack.remote(number, None, False))
        del self._gangs[number]
        self._absences.forget(number)

    def _serve(self, key: str, num_lacking: int, berths: Mapping[str, Berth], held: Mapping[int, int]) -> None:
        """Do what helps the leases of one key that wait; where their packs failed or have no place, nothing does.

        Args:
            key: Of the leases.
            num_lacking: Slots that they lack.
            berths: By key.
            held: Leases of each pack that is open.
        """
        packs, berth = {number: of for number, (of, _) in self._packs.items()}, berths[key]
        has_room = len(free_places(worker_resources(berth.spec))) >= berth.spec.distributed.num_workers
        if not has_room:
            self._look_for_places(key, berth.spec)
        if key in self._broken:
            if key not in packs.values():  # the last of them was closed since
                ray.get(self._host.refuse.remote(key, self._broken[key]))
            return
        starting = [number for number in packs if number not in held]
        without_room = [number for number in starting if waits_for_places(self._gangs[number])]
        is_free = not self._is_kept({number: self._gangs[number] for number in packs if number not in without_room})
        may_grow = self._may_grow and is_free
        match next_move(key, num_lacking, berths, packs, held, has_room and is_free, may_grow, without_room):
            case Opening():
                self._begin(self.start(key, berth.spec), key, berth)
            case Closing(pack):
                ray.get(self._host.close_pack.remote(pack))

    def _is_kept(self, gangs: Mapping[int, Gang]) -> bool:
        """Whether what is free is kept for packs that lack their room, as while workers are being restarted.

        In another pack's hands it would come back when that has nothing to train any more, and in step, where all wait
        for what their trials save, not at all. Where their nodes are gone for good, others train on. A pack without
        leases that was lost is none of these: it starts anew.

        Args:
            gangs: Of the packs, by number.
        """
        now = time.monotonic()
        self._lacks_since = {number: self._lacks_since.get(number, now) for number in without_places(gangs)}
        return any(gangs[number].could_be() or now < since + COMING_S for number, since in self._lacks_since.items())

    def _look_for_places(self, key: str, spec: RunSpec) -> None:
        """Note that packs of a key cannot be, where the cluster can never hold one; looked at once for each."""
        if key in self._looked_for:
            return
        self._looked_for.add(key)
        try:
            check_places(spec)
            self._may_grow = self._may_grow or can_grow()
        except InputError as error:
            self._broken[key] = str(error)
