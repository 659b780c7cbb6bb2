"""Where leases and slots meet: trials ask for slots on one side, packs of slots report and fetch commands on the other.

A plain class under one lock, without Ray, which a sweep puts into an actor. Two rules keep luck out of its decisions:

- Reports of one turn are passed on in trial order, and the next one only once whoever steers has *settled*: it has
  taken in all it was told, has given all its orders, and waits.
- What a pack may do next is handed out once all reports are answered in this way, so that slots which go on do so
  together, beside those that are new. Only `Save` hurries: who gave the order may wait for it. All others wait for it,
  too, but for those of other packs where the slot is *late*: its workers are gone, or do again what was lost with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from raylora.runtime.cluster.desk_messages import Close, Command, Go, Halt, Report
from raylora.runtime.pack.desk_orders import Orders
from raylora.runtime.pack.desk_seating import give_back, is_late, is_served, lacking, next_report, num_waiting, place
from raylora.runtime.pack.desk_state import Claim, Pack, Tenant, are_answered, leave_unsaved
from raylora.runtime.pack.waiters import Waiters

ANSWERS_S, IDLE_S, SAVE_S = 10.0, 1.0, 600.0
"""Longest wait of a pack for answers to its reports, and for a command: an idle one looks whether a node is to go; and,
in step, of all others for a save by workers that are gone."""


class Desk:
    """Leases, packs, and what they have to tell each other; calls that wait do so in the caller's thread."""

    in_step = False
    """Whether all wait for every save, a late one as well: trials go on from each other's, and whoever steers stops."""

    def __init__(self) -> None:
        self._changed, self._orders = Waiters(), Orders()
        self._tenants: dict[str, Tenant] = {}
        self._packs: dict[int, Pack] = {}
        self._untold: list[Report] = []
        self._refused: dict[str, str] = {}
        self._halted = False

    # The side of the trials.

    def begin_order(self) -> None:
        """Count an order of whoever steers, before it is carried out."""
        with self._change():
            self._orders.begin()

    def settle(self, num_orders: int, num_open: int) -> None:
        """Note that whoever steers has taken in every answer there was, and waits.

        Args:
            num_orders: Orders it gave since the beginning.
            num_open: Those of them whose answer it waits for.
        """
        with self._change():
            self._orders.say(num_orders, num_open)

    def lease(self, claims: Sequence[Claim]) -> None:
        """Ask for the slots of one trial, all at once; does not wait for them.

        Args:
            claims: One for each repeat.
        """
        with self._change():
            party = tuple(claim.lease for claim in claims)
            self._tenants |= {claim.lease: Tenant(claim, party) for claim in claims}

    def go(self, leases: Sequence[str]) -> list[Report]:
        """Let slots train on, and wait until each has reported, or one has failed.

        Args:
            leases: Those of one trial that have not ended; one that has holds its last report up to its trial.

        Returns:
            Reports in the order of ``leases``; fewer where one failed, none where the leases were freed meanwhile.
        """
        with self._change():
            for tenant in self._present(leases):
                if not (tenant.ended or tenant.report or tenant.wanted or tenant.untold):
                    tenant.wanted = True
                    if tenant.pack is not None and not tenant.repeating:
                        self._packs[tenant.pack].hold([Go(tenant.claim.lease)])
            self._wait_for_answer(lambda: are_answered(list(self._present(leases)), len(leases)))
            present = list(self._present(leases))
            reports = [tenant.report for tenant in present if tenant.report]
            for tenant in present:
                tenant.report = None
            return reports if len(present) == len(leases) else []

    def save(self, leases: Sequence[str]) -> list[str | None]:
        """Save slots as they are now, and wait for it.

        Returns:
            URIs in the order of ``leases``; ``None`` for one that has trained nothing and started from nothing. In
            step, of one whose workers do not come back, that of the save before.
        """
        with self._change():
            for tenant in self._present(leases):
                if tenant.pack is not None and not (tenant.saving or (self._halted and is_late(tenant, self._packs))):
                    tenant.saving, tenant.shares = True, self.in_step
                    if not tenant.repeating:
                        self._packs[tenant.pack].hurry(tenant.save)
            while not self._wait_for_answer(lambda: not any(each.saving for each in self._present(leases)), SAVE_S):
                leave_unsaved(self._present(leases) if self.in_step else (), self._packs)
            return [tenant.start_from for tenant in self._present(leases)]

    def last_reports(self, leases: Sequence[str]) -> list[Report | None]:
        """Return what slots that were just saved reported last, told or not; ``None`` where that was before."""
        with self._changed:
            return [tenant.last_report for tenant in self._present(leases)]

    def halt(self) -> None:
        """Tell no report any more and let no slot train on; what is saved now can go on in another process."""
        with self._change():
            self._halted = True
            for pack in self._packs.values():
                pack.hurry(Halt())

    def settled(self) -> bool:
        """Whether whoever steers has taken in all it was told, and waits."""
        with self._changed:  # it may be held already
            return self._orders.settled

    def free(self, leases: Sequence[str]) -> None:
        """Give slots up; names of leases that are gone are passed over."""
        with self._change():
            for tenant in list(self._present(leases)):
                del self._tenants[tenant.claim.lease]
                if tenant.pack is not None:
                    self._packs[tenant.pack].vacate(tenant.claim.lease)
            self._untold = [report for report in self._untold if report.lease in self._tenants]

    def waiting(self) -> dict[str, int]:
        """Slots that leases lack, by the key of their packs; where enough are free, they only wait for a turn's end."""
        with self._changed:
            return lacking(self._tenants.values(), self._packs)

    def held(self) -> dict[int, int]:
        """Leases of each pack that is open, by its number; of one whose workers are gone only where it has some."""
        with self._changed:
            return {number: len(pack.leases) for number, pack in self._packs.items() if pack.leases or not pack.away}

    def away(self) -> list[int]:
        """Packs whose workers are gone, and no others are at work yet."""
        with self._changed:
            return [number for number, pack in self._packs.items() if pack.away]

    def close_pack(self, pack: int) -> None:
        """Tell one pack to end, if no lease has a slot there or waits for one; no lease gets one from now on.

        Args:
            pack: Its number.
        """
        with self._change():
            here = self._packs.get(pack)
            if here is not None and not here.leases and not num_waiting(self._tenants.values())[here.key]:
                here.num_slots = 0
                here.hurry(Close())

    # The side of the packs.

    def open_pack(self, pack: int, key: str, num_slots: int) -> None:
        """Offer the slots of a worker group; again after it was lost, with the same number.

        Args:
            pack: Its number.
            key: Leases with this key fit.
            num_slots: Slots.
        """
        with self._change():
            self._packs[pack] = Pack(key, num_slots)
            self._refused.pop(key, None)

    def exchange(self, pack: int, reports: Sequence[Report], wait: bool) -> list[Command]:
        """Take a turn's reports from a pack, and tell it what to do next.

        With reports it waits for their answers, a matter of milliseconds, so that all slots take the next turn.

        Args:
            pack: Its number.
            reports: Of this turn, in any order.
            wait: Whether the pack has nothing to train, and would rather wait for a command.

        Returns:
            Commands in order; none where nothing came up in time.
        """
        with self._change():
            here = self._packs.get(pack)
            if here is None or here.away:
                return [Close()]  # a group that is held to be lost, and still asks
            for report in sorted(reports, key=lambda report: self._in_line(report.lease)):
                tenant = self._tenants.get(report.lease)  # what comes from one that was freed meanwhile is too late
                if tenant is not None and report.lease in here.leases and here.is_news(tenant, report):
                    self._untold.append(report)
            self._wait(lambda: bool(here.ready) or here.settled, ANSWERS_S)
            if wait:
                self._wait(lambda: bool(here.ready), IDLE_S)
            return here.take()

    def miss_pack(self, pack: int) -> None:
        """Note that a pack's workers are gone, and others may come: its leases wait for them, and nobody else does.

        Args:
            pack: Its number.
        """
        with self._change():
            if (here := self._packs.get(pack)) is not None:
                here.away = True
                here.hurry(Close())  # whoever of the group still asks

    def lose_pack(self, pack: int, reason: str | None, again: bool) -> None:
        """Note that a worker group failed: its leases go on elsewhere or when it is back, from their last save.

        Args:
            pack: Its number.
            reason: What to tell of leases that can go on nowhere; ``None`` where another pack may come for them.
            again: Whether the group is started once more.
        """
        with self._change():
            lost = self._packs.pop(pack, None)
            if lost is None:
                return
            lost.hurry(Close())  # whoever of the group still asks
            if again:
                self._packs[pack] = Pack(lost.key, lost.num_slots, away=True)
            for lease in lost.leases:
                self._tenants[lease].lose()
            if not (again or reason is None or is_served(lost.key, self._packs)):
                self._refused[lost.key] = reason

    def refuse(self, key: str, reason: str) -> None:
        """Fail the leases that wait for a pack that will not come, unless another that they fit is open.

        Args:
            key: Of the pack.
            reason: What to tell.
        """
        with self._change():
            if not is_served(key, self._packs):
                self._refused[key] = reason

    def close(self) -> None:
        """Tell every pack to end."""
        with self._change():
            for pack in self._packs.values():
                pack.hurry(Close())

    # Under the lock.

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._advance()

    def _wait(self, reached: Callable[[], bool], timeout_s: float | None = None) -> bool:
        self._advance()
        self._changed.wait_for(reached, timeout_s)
        return reached()

    def _wait_for_answer(self, answered: Callable[[], bool], timeout_s: float | None = None) -> bool:
        with self._orders.unanswered(answered):
            return self._wait(answered, timeout_s)

    def _saving(self) -> bool:
        """Whether all wait for an order to save: a trial that is paused has not left before it is carried out."""
        return any(each.saving and (self.in_step or not is_late(each, self._packs)) for each in self._tenants.values())

    def _advance(self) -> None:
        """Pass reports on until one is an answer; where none is left, fill free slots and hand the commands out."""
        if self._halted:
            for tenant in self._tenants.values():  # the next process goes on from the save before
                tenant.saving &= not is_late(tenant, self._packs)
        else:
            give_back(self._tenants.values(), self._packs)
            self._tell()
            if self._orders.settled:
                self._untold += place(self._tenants.values(), self._packs, self._refused)
                self._tell()
            if self._orders.settled and not self._saving():
                for pack in self._packs.values():
                    pack.open(self._in_line)
        self._changed.wake()

    def _tell(self) -> None:
        while self._untold and self._orders.settled and not self._saving():
            if (report := next_report(self._untold, self._tenants, self._packs)) is None:
                return
            self._untold.remove(report)
            self._tenants[report.lease].report = report

    def _present(self, leases: Iterable[str]) -> Iterator[Tenant]:
        return (self._tenants[lease] for lease in leases if lease in self._tenants)

    def _in_line(self, lease: str) -> tuple[int, str]:
        """Trial order; what is gone first."""
        tenant = self._tenants.get(lease)
        return (-1 if tenant is None else tenant.claim.trial, lease)
