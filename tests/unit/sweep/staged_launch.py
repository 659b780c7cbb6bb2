"""A sweep's driver without Ray: real records, leases and books; Tune and the workers do what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from raylora.runtime.stopping import StopWish
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.fence import Fence
from raylora.store.home import default_store_uri
from raylora.store.lease import Lease
from raylora.sweep import launch
from raylora.sweep.planning.berths import Berth, Berths
from raylora.sweep.steering.drive import Search, TrialOutcome
from raylora.sweep.steering.trials import SweepTrials
from raylora.sweep.steering.watch import Listener
from raylora.train.events import Event
from tests.unit.runtime.handles import Handle, NoRay

Act = Callable[[], None]


class Stage:
    """What a driver meets.

    Args:
        monkeypatch: Undoes it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches: list[tuple[Search, bool]] = []
        """Those that Tune was asked for, and whether it was to go on with one."""
        self.num_clusters = 0
        self.packs: dict[str, RunSpec] = {}
        """Those that were started ahead: by key, what each was told to hold when it was to begin."""
        self.outcomes: list[TrialOutcome] = []
        self.leases: list[Lease] = []
        self.stop = StopWish()
        self.while_driving: Callable[[Act], None] = lambda tend: None
        self.note: Listener = lambda event: None
        """Takes what happens to a trial, while it drives."""
        self.write: Act = lambda: None
        """Called before Tune keeps anything, while it drives."""
        self.told: list[Event] = []
        """What the packs have told and nobody has heard yet."""
        self.while_ending: Act = lambda: None
        monkeypatch.setattr(launch, "cluster", self._cluster)
        monkeypatch.setattr(launch, "check_places", lambda spec: None)
        monkeypatch.setattr(launch, "checking", _checking)
        monkeypatch.setattr(launch, "stop_wish", self._stop_wish)
        monkeypatch.setattr(launch, "open_host", lambda num_leases, num_packs: Handle(StagedHost()))
        monkeypatch.setattr(launch, "ray", NoRay)
        monkeypatch.setattr(launch, "Fleet", lambda host, steps, listen, first: StagedFleet(self, listen))
        monkeypatch.setattr(launch, "Lease", self._lease)
        monkeypatch.setattr(Berths, "plan", lambda berths: None)
        monkeypatch.setattr("raylora.sweep.steering.drive.drive", self._drive)

    @contextmanager
    def _cluster(self, spec: RunSpec) -> Iterator[None]:
        self.num_clusters += 1
        yield

    @contextmanager
    def _stop_wish(self) -> Iterator[StopWish]:
        yield self.stop

    def _lease(self, *made_with: Any) -> Lease:
        self.leases.append(Lease(*made_with))
        return self.leases[-1]

    def _drive(self, host: Any, search: Search, stop: StopWish, listen: Any, resume: bool, *calls: Act) -> Any:
        tend, self.write = calls
        self.note = listen
        self.searches.append((search, resume))
        self.while_driving(tend)
        return self.outcomes


class StagedHost:
    """Makes nothing ready."""

    def prepare(self, environment: Mapping[str, str], trials: SweepTrials) -> None:
        pass


class StagedFleet:
    """Without packs.

    Args:
        stage: What it does at its end.
        listen: Told of every event, with the number of its pack.
    """

    def __init__(self, stage: Stage, listen: Callable[[int, Event], None]) -> None:
        self._stage, self._listen = stage, listen

    def start(self, key: str, spec: RunSpec) -> int:
        self._stage.packs[key] = spec
        return 0

    def begin(self, store_uri: str, fence: Fence, berths: Mapping[str, Berth]) -> None:
        self._stage.packs = {key: berths[key].spec for key in self._stage.packs}

    def hear(self) -> None:
        while self._stage.told:
            self._listen(0, self._stage.told.pop(0))

    def tend(self, berths: Mapping[str, Berth]) -> None:
        pass

    def end(self) -> None:
        self._stage.while_ending()

    def close(self) -> None:
        pass


def _checking(run: RunSpec) -> SimpleNamespace:
    return SimpleNamespace(result=lambda: SimpleNamespace(store=open_store(run.storage.uri or default_store_uri())))
