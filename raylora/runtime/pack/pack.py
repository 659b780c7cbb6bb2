"""Many runs on one base, turn after turn, as the desk commands: what a worker of a pack does once its base is placed.

All ranks know of all leases. A lease's run trains on all of them, or on the one that owns it. Called by `job`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from queue import SimpleQueue
from typing import cast

import ray
from ray.actor import ActorHandle

from raylora.errors import RayloraError, StoreError, UnusableStoreError
from raylora.log import get_logger
from raylora.runtime.cluster.desk_messages import (
    BEFORE_ANY_STEP,
    Admit,
    Close,
    Command,
    Free,
    Go,
    Halt,
    Report,
    ReportKind,
    Save,
)
from raylora.runtime.cluster.mailbox import Mailbox, PackJob
from raylora.runtime.job.hooks import PackHooks, Written
from raylora.runtime.job.own_fence import own_fence
from raylora.runtime.job.published import ToPublish, publish_all
from raylora.runtime.job.same_checkpoint import checkpoint_of, load_alike
from raylora.runtime.pack.evening import due_move
from raylora.runtime.pack.lease import PackLease
from raylora.runtime.pack.open_inputs import OpenInputs
from raylora.runtime.pack.own_saves import OwnSaves
from raylora.runtime.pack.width import offered_slots
from raylora.store.checkpoint import Checkpoint, share
from raylora.store.fence import open_fenced
from raylora.store.kept import give_up_beyond
from raylora.store.runs import run_store
from raylora.train.member import Member
from raylora.train.outcome import Outcome
from raylora.train.trainee import Trainee
from raylora.train.turn import step_all, validate_all

log = get_logger(__name__)

CHECK_IN_S = 0.5
"""Longest time between two looks at what the desk wants, while there is something to train."""


class Pack:
    """The leases of one pack on one rank.

    Args:
        job: The pack.
        mailbox: Of the workers.
        trainee: The placed base, without slots.
    """

    def __init__(self, job: PackJob, mailbox: ActorHandle[Mailbox], trainee: Trainee) -> None:
        self._job, self._mailbox, self._trainee = job, mailbox, trainee
        fence = own_fence(job, f"pack-{job.pack}", trainee.ranks)
        self.group, self._stores = fence.group, open_fenced(job.store_uri, fence)
        self._leases: dict[str, PackLease] = {}
        self._inputs = OpenInputs(self._stores)
        self._reports: list[Report] = []
        self._unmoved: set[str] = set()
        self._written: Written = SimpleQueue()
        self._own_saves, self._asked_at = OwnSaves(mailbox), 0.0

    def width(self) -> int:
        """Slots to offer; a collective call."""
        return offered_slots(self._job, self._trainee, self._inputs)

    def run(self) -> None:
        """Obey and train in turns, once the host knows of the group."""
        while True:
            for command in self._exchange():
                if isinstance(command, Close):
                    return
                self._obey(command)
            self._even_out()
            self._turn()

    def _exchange(self) -> list[Command]:
        """Tell what happened on any rank, and hear what is next; the same on every rank."""
        ranks = self._trainee.ranks
        while not self._written.empty():
            match self._written.get():
                case Report() as report:
                    self._reports.append(report)
                case error:
                    raise error
        told = [report for of_rank in ranks.gather(self._reports) for report in of_rank]
        self._reports = []
        for report in told:
            self._note(report)
        asked: list[Command] = self._ask(told) if ranks.rank == 0 else []
        return cast("list[Command]", ranks.gather(asked)[0])

    def _note(self, report: Report) -> None:
        if report.kind in ("finished", "failed"):
            self._release(report.lease)
        elif report.kind == "metrics":
            self._leases[report.lease].is_going = False

    def _ask(self, told: list[Report]) -> list[Command]:
        is_idle = not any(lease.is_going for lease in self._leases.values())
        if not told and not is_idle and time.monotonic() - self._asked_at < CHECK_IN_S:
            return []
        commands: list[Command] = ray.get(self._job.desk.exchange.remote(self._job.pack, self.group, told, is_idle))
        self._asked_at = time.monotonic()
        return commands + self._own_saves.due({name: lease.admit.spec for name, lease in self._leases.items()})

    def _obey(self, command: Command) -> None:
        match command:
            case Admit():
                self._admit(command)
            case Go(lease) if lease in self._leases:
                self._leases[lease].is_going = True
            case Halt():
                for each in self._leases.values():
                    each.is_going = False
            case Save(lease) if lease in self._leases:
                if member := self._leases[lease].member:
                    self._save(command, member)
            case Free(lease):
                self._release(lease)

    def _admit(self, command: Admit) -> None:
        lease = PackLease(command, self._free_slot(), self._owner())
        self._leases[command.lease] = lease
        if lease.owner not in (None, self._trainee.ranks.rank):
            return
        if why := self._why_not(lease):
            lease.member = None
            self._reports += self._speaking([Report(command.lease, "failed", 0, {"error": why})])

    def _why_not(self, lease: PackLease) -> str | None:
        """Let a run in; returns why it cannot be, the same on all ranks that share it."""
        ranks, spec = self._trainee.slot_ranks, lease.admit.spec
        if why := self._inputs.why_unreadable(spec, ranks) or self._inputs.of(spec).why_other_rows(ranks):
            return why
        error = None
        try:
            checkpoint = load_alike(ranks, partial(checkpoint_of, lease.admit, self._stores))
            lease.member = self._member(lease, checkpoint)
        except RayloraError as failure:
            error = _of_one_run(failure)
        return next((found for found in ranks.gather(error) if found is not None), None)

    def _opened(self, lease: PackLease) -> Member:
        """Open the run's rows and give it its slot."""
        command, trainee = lease.admit, self._trainee
        inputs = self._inputs.of(command.spec)
        hooks = PackHooks(self._mailbox, run_store(self._stores, command.run_id), command, self._written)
        trainee.admit(lease.slot, command.spec)
        rows, validation = inputs.batches(command.spec)
        digests = inputs.digests_of_trial(command.spec)
        return Member(trainee, lease.slot, command.spec, rows, validation, hooks, digests, command.max_tokens)

    def _member(self, lease: PackLease, checkpoint: Checkpoint | None) -> Member:
        """Let a run go on from where it was, and tell where it is."""
        command, trainee, member = lease.admit, self._trainee, self._opened(lease)
        inputs, own = self._inputs.of(command.spec), run_store(self._stores, command.run_id)
        if checkpoint is not None:
            member.restore(checkpoint, tells_again=checkpoint.uri.startswith(f"{own.uri}/"))
        elif trainee.slot_ranks.rank == 0:  # what an earlier process left is no future of a run that begins anew
            give_up_beyond(own, BEFORE_ANY_STEP)
        placed = {
            "strategy": trainee.strategy.name,
            "device": trainee.device.type,
            "base_bytes_per_rank": trainee.base_bytes_per_rank,
            "trainable_parameters": trainee.num_trainable(lease.slot),
            "datasets": inputs.uses(),
            "lineage": inputs.lineage(command.spec, command.run_id, trainee.device),
        }
        member.emit("placed", placed)
        member.emit("start", {"num_steps": member.num_steps})
        return member

    def _even_out(self) -> None:
        """Let a rank that has nothing to train take a run over, where each trains its own."""
        ranks = self._trainee.ranks
        owners = {name: lease.owner for name, lease in self._leases.items() if lease.owner is not None}
        move = due_move(owners, ranks.world_size, self._unmoved)
        if move is None:
            return
        lease, here = self._leases[move.lease], ranks.rank == move.to
        moment = ranks.gather(lease.member.hand_over() if lease.member else None)[owners[move.lease]]
        taken = self._taken_over(lease, moment) if here and moment else None
        if not ranks.gather(taken is not None)[move.to]:
            self._unmoved.add(move.lease)
            return
        if not here:
            lease.give_up(self._trainee)
        lease.owner, lease.member = move.to, taken

    def _taken_over(self, lease: PackLease, moment: Checkpoint) -> Member | None:
        """The run in a slot of this rank; ``None`` where it cannot be, and stays where it is."""
        try:
            member = self._opened(lease)
            member.take_over(moment)
        except RayloraError as error:
            log.warning("a run stays where it is: %s", error)
            lease.give_up(self._trainee)
            return None
        return member

    def _turn(self) -> None:
        """One step of every run that is going, and what is due after it."""
        going = {name: lease for name, lease in self._leases.items() if lease.is_going}
        if not going:
            return
        mine = {name: lease.member for name, lease in going.items() if lease.member is not None}
        failures = step_all(self._trainee, list(mine.values()))
        whole = [member for member in mine.values() if member.slot not in failures]
        failures |= validate_all(self._trainee, whole)
        through = {name: member for name, member in mine.items() if member.ending and member.slot not in failures}
        published = publish_all(self._trainee, {name: self._to_publish(name, each) for name, each in through.items()})
        for name, member in mine.items():
            if member.slot in failures:
                self._report(member, name, "failed", {"error": str(failures[member.slot])})
            elif name in published:
                self._finish(name, member, published[name])
            else:
                self._tell(name, member)

    def _tell(self, name: str, member: Member) -> None:
        if member.is_to_save:
            self._save(Save(name, is_awaited=False), member)
        if member.is_to_report or member.progress.step % self._job.report_steps == 0:
            self._report(member, name, "metrics", member.metrics)

    def _save(self, command: Save, member: Member) -> None:
        """Keep a checkpoint; where the store takes none, the run fails, as its hooks tell, and no other does."""
        with suppress(StoreError):
            member.save()
            if command.is_awaited:
                uri = member.settle()
                if command.is_shared and self._trainee.slot_ranks.rank == 0:
                    share(uri, self._stores)
                self._report(member, command.lease, "saved", {"uri": uri})

    def _to_publish(self, name: str, member: Member) -> ToPublish:
        admit, device = self._leases[name].admit, self._trainee.device
        inputs = self._inputs.of(admit.spec)
        about = inputs.lineage(admit.spec, admit.run_id, device) | {"eval_loss": member.progress.eval_loss}
        return ToPublish(member.slot, inputs, run_store(self._stores, admit.run_id), about)

    def _finish(self, name: str, member: Member, published: str | RayloraError) -> None:
        if isinstance(published, RayloraError):
            self._report(member, name, "failed", {"error": _of_one_run(published)})
            return
        outcome = Outcome(member.ending or "finished", member.progress, "", [])
        ranks = self._trainee.ranks_left(member.slot)
        member.emit("outcome", {**asdict(outcome), "adapter_uri": published, "ranks": ranks})
        self._report(member, name, "finished", {**member.metrics, "adapter_uri": published})

    def _release(self, name: str) -> None:
        """Give a lease's slot up; one that is gone already is passed over."""
        lease = self._leases.pop(name, None)
        if lease is not None:
            lease.give_up(self._trainee)

    def _report(self, member: Member, name: str, kind: ReportKind, values: Mapping[str, object]) -> None:
        self._reports += self._speaking([Report(name, kind, member.progress.step, values)])

    def _speaking(self, reports: list[Report]) -> list[Report]:
        """One of the ranks that share a run speaks for it."""
        return reports if self._trainee.slot_ranks.rank == 0 else []

    def _free_slot(self) -> int:
        taken = {lease.slot for lease in self._leases.values()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _owner(self) -> int | None:
        """The rank with the fewest runs, where each trains its own."""
        if not self._job.slots_stay_on_ranks:
            return None
        held = Counter(lease.owner for lease in self._leases.values())
        return min(range(self._trainee.ranks.world_size), key=lambda rank: (held[rank], rank))


def _of_one_run(error: RayloraError) -> str:
    """Why one run fails; what would meet them all ends the pack instead, so that a resumed sweep goes on with each."""
    if isinstance(error, UnusableStoreError):
        raise error
    return str(error)
