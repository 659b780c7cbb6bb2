"""What the desk knows of a lease and of a pack. In come calls of the desk, under its lock; nothing here waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raylora.runtime.cluster.desk_messages import BEFORE_ANY_STEP, Admit, Command, Free, Go, Report, Save
from raylora.spec.run import RunSpec
from raylora.store.kept import place_of

Held = Free | Admit | Save | Go
_KINDS = (Free, Admit, Save, Go)


@dataclass(frozen=True)
class Claim:
    """A lease as it is asked for.

    Args:
        lease: Its name; no other lease ever has it.
        trial: Number of its trial.
        spec: What its slot trains.
        run_id: Name in the store of what it leaves behind.
        key: Packs with this key can hold it.
        start_from: URI of the saved slot it goes on from.
        max_tokens: Tokens after which it has finished.
        told_step: Step of its last report that an earlier process told; no report up to there is told again.
        untold: The report after that, which the slot had given and nobody has heard.
    """

    lease: str
    trial: int
    spec: RunSpec
    run_id: str
    key: str
    start_from: str | None = None
    max_tokens: int | None = None
    told_step: int = BEFORE_ANY_STEP
    untold: Report | None = None


@dataclass
class Tenant:
    """A lease and how it stands.

    Args:
        claim: As asked for.
        party: All leases of its trial: they get their slots together.
        pack: Where its slot is.
        wanted: Whether it was told to go on and has not reported since.
        saving: Whether it was asked to save and has not answered.
        shares: Whether other trials may go on from what it was asked to save.
        told_step: Step of its last report of metrics; what it repeats after a lost pack is told to nobody.
        saved: URI of its newest saved slot, and the slot's step.
        returns: Whether it had a slot in a pack that was lost.
        repeating: Whether it does again what a lost pack had done.
        report: Its last report, passed on and not yet fetched.
        ended: Whether it finished or failed.
        untold: The report of its claim, until it is passed on.
        last: Its last report, passed on or not.
    """

    claim: Claim
    party: tuple[str, ...]
    pack: int | None = None
    wanted: bool = False
    saving: bool = False
    shares: bool = False
    told_step: int = BEFORE_ANY_STEP
    returns: bool = False
    repeating: bool = False
    saved: tuple[str, int] | None = None
    report: Report | None = None
    ended: bool = False
    untold: Report | None = None
    last: Report | None = None

    def __post_init__(self) -> None:
        self.told_step, self.untold, self.last = self.claim.told_step, self.claim.untold, self.claim.untold
        self.ended = self.untold is not None and self.untold.kind != "metrics"

    @property
    def save(self) -> Save:
        """The order to save."""
        return Save(self.claim.lease, is_shared=self.shares)

    @property
    def waiting(self) -> bool:
        """Whether it waits for a slot."""
        return self.pack is None and not self.ended

    def end(self) -> None:
        """Have no slot any more, for good."""
        self.pack, self.ended, self.saving, self.wanted = None, True, False, False

    def keep(self, report: Report) -> None:
        """Note a checkpoint; one that was on its way when it was asked to save is no answer.

        Args:
            report: Of kind ``kept`` or ``saved``.
        """
        is_answer = report.kind == "saved"
        if self.saved is None or is_answer or report.step >= self.saved[1]:
            self.saved = (report.values["uri"], report.step)
        self.saving &= not is_answer

    def lose(self) -> None:
        """Lose the slot; what was done after the last save must be done again."""
        self.pack, self.returns = None, True
        self.repeating = self.told_step > self._start_step

    @property
    def last_report(self) -> Report | None:
        """Its last report, if that is where its newest save stands: what comes after is reported anew."""
        is_saved = self.saved is not None and self.last is not None and self.saved[1] == self.last.step
        return self.last if self.ended or self.untold or is_saved else None

    @property
    def start_from(self) -> str | None:
        """Where it would start now."""
        return self.claim.start_from if self.saved is None else self.saved[0]

    @property
    def _start_step(self) -> int:
        """Step of where it would start now; before any where that is not known."""
        if self.saved is not None:
            return self.saved[1]
        place = place_of(self.claim.start_from or "")
        return BEFORE_ANY_STEP if place is None else place[1]

    def owed(self) -> list[Held]:
        """What it was told and has not done, as far as a slot at its last report can do it."""
        owed: tuple[tuple[bool, Held], ...] = (self.saving, self.save), (self.wanted, Go(self.claim.lease))
        return [command for told, command in owed if told]

    def first_commands(self) -> list[Held]:
        """What a pack that takes it in is told."""
        claim = self.claim
        # One that repeats goes on without an order until it stands at its last report: it must begin before that.
        up_to = self.told_step - 1 if self.repeating else self.told_step
        admit = Admit(claim.lease, claim.trial, claim.spec, claim.run_id, self.start_from, claim.max_tokens, up_to)
        return [admit, *([Go(claim.lease)] if self.repeating else self.owed())]


def are_answered(present: Sequence[Tenant], num_asked: int) -> bool:
    """Whether the leases of one trial have all reported, or one has failed or is freed.

    Args:
        present: Those that there are.
        num_asked: Those that were asked for.
    """
    reports = [tenant.report for tenant in present if tenant.report]
    failed = any(report.kind == "failed" for report in reports)
    return failed or len(present) < num_asked or len(reports) == num_asked


@dataclass
class Pack:
    """A worker group and its slots.

    Args:
        key: Leases with this key fit.
        num_slots: Slots.
        leases: Who has one.
        away: Whether its worker group is gone, and another is to come in its place.
        settled: Whether its last reports are answered.
        held: Commands for when all is answered, in order.
        ready: Commands to fetch.
    """

    key: str
    num_slots: int
    leases: set[str] = field(default_factory=set)
    away: bool = False
    settled: bool = True
    held: list[Held] = field(default_factory=list)
    ready: list[Command] = field(default_factory=list)

    @property
    def num_free(self) -> int:
        """Slots without a lease."""
        return 0 if self.away else self.num_slots - len(self.leases)

    def is_news(self, tenant: Tenant, report: Report) -> bool:
        """Take in a report, and return whether it is to be passed on.

        Args:
            tenant: Who reports; it has a slot here.
            report: Of this turn.
        """
        if report.kind in ("kept", "saved"):
            tenant.keep(report)
            return False
        if report.kind == "metrics" and report.step <= tenant.told_step:
            tenant.repeating = report.step < tenant.told_step
            self.ready += [Go(report.lease)] if tenant.repeating else tenant.owed()
            return False
        tenant.wanted = tenant.repeating = False
        tenant.told_step, tenant.last = report.step, report
        self.settled = False
        if report.kind != "metrics":
            self.leases.discard(report.lease)
            tenant.end()
        return True

    def hold(self, commands: Iterable[Held]) -> None:
        """Keep commands until everything that was reported is answered: slots that go on go on together."""
        self.held.extend(commands)

    def hurry(self, command: Command) -> None:
        """Hand a command out at once, after those before it; only a `Go` can wait."""
        self.ready += [held for held in self.held if not isinstance(held, Go)]
        self.held = [held for held in self.held if isinstance(held, Go)]
        self.ready.append(command)

    def give_back(self, commands: Iterable[Held]) -> None:
        """Hand out at once what a lease of a lost pack was told, whose slot may be one that is still to be freed."""
        self.ready += [held for held in self.held if isinstance(held, Free)]
        self.held = [held for held in self.held if not isinstance(held, Free)]
        self.ready.extend(commands)

    def open(self, in_line: Callable[[str], tuple[int, str]]) -> None:
        """Hand out what was held: slots are freed, given, and go on, each in trial order.

        Args:
            in_line: Place of a lease.
        """
        self.settled = True
        in_order: list[Held] = sorted(self.held, key=lambda held: (_KINDS.index(type(held)), in_line(held.lease)))
        self.ready += in_order
        self.held = []

    def take(self) -> list[Command]:
        """Fetch what is handed out."""
        commands, self.ready = self.ready, []
        return commands

    def vacate(self, lease: str) -> None:
        """Take a lease's slot back; commands that did not leave yet are dropped."""
        self.leases.discard(lease)
        dropped = [command for command in (*self.held, *self.ready) if getattr(command, "lease", None) == lease]
        self.held = [command for command in self.held if command not in dropped]
        self.ready = [command for command in self.ready if command not in dropped]
        if not any(isinstance(command, Admit) for command in dropped):
            self.held.append(Free(lease))


def leave_unsaved(tenants: Iterable[Tenant], packs: Mapping[int, Pack]) -> None:
    """Let nobody wait any more for saves of leases whose workers are gone: the saves before count.

    Args:
        tenants: The leases.
        packs: All packs.
    """
    for tenant in tenants:
        tenant.saving &= tenant.pack is not None and not packs[tenant.pack].away
