"""One driver at a time works on a run: it says so beside the run's record, and goes on saying so while it lives.

Enters: the run's own store. Leaves: a `Lease` that is held, or a refusal that names who holds it. Holders are numbered,
the newest holds the run, and a number is taken by creating its object, which one of several drivers alone can do. Who
gives the run back says so and leaves the object, so that no number comes twice: a driver that slept through all of it
finds out. A process of this machine is asked for; one elsewhere is watched for as long as three of its signs of life
take, by nobody's clock but one's own. Nothing has to be cleaned up after a driver that was killed. Called by the
launcher, and by whoever lists.
"""

from __future__ import annotations

import secrets
import threading
import time

from pydantic import BaseModel, ConfigDict, ValidationError

from raylora.errors import ExistingObjectError, InputError, MissingObjectError, RunFailedError, StoreError
from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.fence import Fence, forget, key_of, numbers
from raylora.store.process import Process, here, lives

BEAT_S = 5.0
WATCH_S = 3 * BEAT_S + 1.0
SILENT_S = 300.0
"""Age of a driver's last sign of life after which a list, which does not watch, calls it gone: clocks differ less."""

_TAKEN: set[str] = set()
"""Tokens of this process's own leases, which its number does not tell from those it could not give back."""

_log = get_logger(__name__)


class Holder(BaseModel):
    """Who works on a run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str
    """Differs with every lease."""

    num_beats: int
    """Signs of life so far."""

    process: Process
    """The driver."""

    beaten_at: float | None = None
    """Unix time of the last sign of life, in seconds by the driver's clock."""

    is_released: bool = False
    """Whether the run was given back."""


class Lease:
    """The right to work on a run; take it, and close it in the end.

    Args:
        store: The run's own store.
        run_id: Name of the run, for messages.
        beat_s: Seconds between two signs of life.
        watch_s: Seconds without one after which a driver on another machine counts as dead.
    """

    def __init__(self, store: Store, run_id: str, beat_s: float = BEAT_S, watch_s: float = WATCH_S) -> None:
        self._store, self._run_id, self._beat_s, self._watch_s = store, run_id, beat_s, watch_s
        self._mine = Holder(token=secrets.token_hex(8), num_beats=0, process=here())
        self._number = 0
        self._ended, self._lost = threading.Event(), False
        self._beating: threading.Thread | None = None

    def take(self) -> None:
        """Take it, unless that was done before.

        Raises:
            InputError: Another driver works on the run.
            StoreError: The store does not answer.
        """
        if self._beating is not None:
            return
        newest, other = _newest(self._store)
        if newest and other is None:  # where files are not made whole at once, it may be on its way
            time.sleep(self._beat_s)
            newest, other = _newest(self._store)
        if other is not None and self._is_held(other):
            raise self._refused(other)
        self._number = newest + 1
        _TAKEN.add(self._mine.token)
        try:
            self._create()
        except BaseException:
            _TAKEN.discard(self._mine.token)
            raise
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()
        for found in numbers(self._store):
            if found < self._number:
                forget(self._store, found)

    def close(self) -> None:
        """Give it back, if it was taken. A store that fails now fails nothing: this process will be found dead."""
        if self._beating is None or self._ended.is_set():
            return
        self._ended.set()
        self._beating.join(self._watch_s)
        _TAKEN.discard(self._mine.token)
        if self._beating.is_alive():
            _log.warning("run %s is not given back yet: its store does not answer", self._run_id)

    @property
    def fence(self) -> Fence:
        """What workers of this driver are handed, once it was taken."""
        return Fence(self._store.uri, self._number, self._run_id)

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the run over, as of the last look."""
        return self._lost

    def look(self) -> None:
        """Ask the store whether another driver has taken the run over; a store that is mute changes nothing."""
        if self._beating is None:
            return
        try:
            self._look()
        except StoreError as failure:
            _log.warning("run %s: it is not known whether another has taken it over: %s", self._run_id, failure)

    def check(self) -> None:
        """Find out that the run is still this driver's, as of the last look.

        Raises:
            RunFailedError: It is not: it was silent for too long, and another goes on with it.
        """
        if self._lost:
            raise RunFailedError(f"run {self._run_id}: another raylora command has taken it over; this one ends")

    def check_now(self) -> None:
        """Find out that the run is still this driver's, as of now, before what belongs to its driver is written.

        Raises:
            RunFailedError: It is not.
        """
        self.look()
        self.check()

    def _look(self) -> None:
        newest, holder = _newest(self._store)
        # Two of one number are found where storage lets a second writer in.
        is_twin = newest == self._number and holder is not None and holder.token != self._mine.token
        if newest > self._number or is_twin:
            self._lost = True

    def _create(self) -> None:
        try:
            self._store.create(key_of(self._number), self._next_beat())
        except ExistingObjectError:
            raise self._refused(_newest(self._store)[1]) from None
        newest, other = _newest(self._store)
        # A folder that changes while it is listed may show neither the number that goes nor the one that has come.
        if newest > self._number:
            self._store.delete(key_of(self._number))
            raise self._refused(other)

    def _refused(self, other: Holder | None) -> InputError:
        who = f" (process {other.process.pid} on {other.process.host})" if other else ""
        kill = f", or kill {other.process.pid}, which saves a checkpoint" if other else ""
        return InputError(
            f"run {self._run_id}: another raylora command is at work on it{who}; wait for its end, or stop it there "
            f"(Ctrl-C{kill}), then resume"
        )

    def _is_held(self, other: Holder) -> bool:
        """Whether a holder lives; takes `watch_s` only where it may be a process of another machine."""
        if other.is_released:
            return False
        if other.process == self._mine.process:
            return other.token in _TAKEN
        known = lives(other.process)
        if known is not None:
            return known
        _log.info("run %s: watching for %.0f s whether its driver lives", self._run_id, self._watch_s)
        deadline = time.monotonic() + self._watch_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._beat_s))
            _, now = _newest(self._store)
            if now is None or now != other:
                return now is not None and not now.is_released
        return False

    def _beat(self) -> None:
        try:
            while not self._lost and not self._ended.wait(self._beat_s):
                self._leave_sign()
        finally:
            if not self._lost:
                self._give_back()

    def _leave_sign(self) -> None:
        try:
            self._look()
            if not self._lost:
                self._store.write(key_of(self._number), self._next_beat())
        except StoreError as failure:  # tried again at the next beat, which tells whether another came meanwhile
            _log.warning("run %s: no sign of life could be left: %s", self._run_id, failure)

    def _give_back(self) -> None:
        """Say so after the last sign of life: one that a slow store held up would take it back."""
        try:
            given_back = self._mine.model_copy(update={"is_released": True})
            self._store.write(key_of(self._number), given_back.model_dump_json().encode())
        except StoreError as failure:
            _log.warning("run %s could not be given back: %s", self._run_id, failure)

    def _next_beat(self) -> bytes:
        beat = {"num_beats": self._mine.num_beats + 1, "beaten_at": time.time()}
        self._mine = self._mine.model_copy(update=beat)
        return self._mine.model_dump_json().encode()


def is_deserted(store: Store) -> bool:
    """Tell at once, without watching, that nobody works on a run any more; where it cannot be told, somebody does.

    Args:
        store: The run's own store.

    Raises:
        StoreError: The store does not answer.
    """
    _, holder = _newest(store)
    if holder is None or holder.is_released:
        return True
    known = lives(holder.process)
    if known is not None:
        return not known
    return holder.beaten_at is not None and time.time() - holder.beaten_at > SILENT_S


def _newest(store: Store) -> tuple[int, Holder | None]:
    """The newest number, 0 where there is none, and who has or had it, unless that cannot be read."""
    number = max(numbers(store), default=0)
    try:
        return number, Holder.model_validate_json(store.read(key_of(number))) if number else None
    except (MissingObjectError, ValidationError):
        return number, None
