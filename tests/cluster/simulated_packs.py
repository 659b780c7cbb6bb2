"""Packs that train nothing, as actors: each holds a core, as a real pack's worker does."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import BasicVariantGenerator

from raylora.runtime.cluster.desk_messages import Command, Report
from raylora.runtime.cluster.environment import forwarded
from raylora.runtime.stopping import StopWish
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.steering.drive import Search, TrialOutcome, drive
from raylora.sweep.steering.host import open_host
from raylora.sweep.steering.tune_space import tune_scheduler
from raylora.sweep.steering.watch import TrialEvent
from tests.unit.sweep.simulated_pack import SimulatedPack
from tests.unit.sweep.simulated_trials import SimulatedTrials

MAX_STEPS = 16
SPACE = {"learning_rate": tune.loguniform(1e-5, 1e-2), "lora_r": tune.choice([4, 8, 16])}


def ray_of_two_cores() -> Iterator[None]:
    """A Ray on which two packs hold all cores: leases must need none."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@ray.remote(num_cpus=1)
class PackActor:
    """One pack; it ends by itself when it is told to.

    Args:
        host: Where its commands come from.
        folder: For saved slots.
        turn_s: Seconds a turn takes at least.
    """

    def __init__(self, host: Any, number: int, folder: Path, save_steps: int = 0, turn_s: float = 0.0) -> None:
        self.host, self.turn_s, self.group = host, turn_s, ""
        self.pack = SimulatedPack(number, folder, save_steps)

    def run(self, group: str) -> SimulatedPack:
        self.group = group
        self.pack.run(self.exchange)
        return self.pack

    def exchange(self, number: int, reports: list[Report], wait: bool) -> list[Command]:
        time.sleep(self.turn_s)
        return ray.get(self.host.exchange.remote(number, self.group, reports, wait))


@dataclass
class Stage:
    """A host with its packs, and what was heard of a search.

    Args:
        host: The actor.
        prepared: Its answer once it has started; packs start meanwhile.
        folder: For all that is saved.
        actors: The packs' actors by number.
        runs: Their results to come.
        groups: Numbers of groups of workers, one after the other.
    """

    host: Any
    prepared: Any
    folder: Path
    actors: dict[int, Any] = field(default_factory=dict)
    runs: dict[int, Any] = field(default_factory=dict)
    groups: Iterator[int] = field(default_factory=count)
    events: list[TrialEvent] = field(default_factory=list)
    stop: StopWish = field(default_factory=StopWish)

    def open_pack(self, number: int, num_slots: int, key: str = "all", **more: Any) -> None:
        self.actors[number] = PackActor.remote(self.host, number, self.folder, **more)
        group = f"{next(self.groups):08d}"
        ray.get([self.prepared, self.host.open_pack.remote(number, group, key, num_slots)])
        self.runs[number] = self.actors[number].run.remote(group)

    def drive(self, search: Search, **more: Any) -> list[TrialOutcome]:
        more.setdefault("listen", self.events.append)
        return drive(self.host, search, self.stop, **more)

    def search(self, num_trials: int, at_once: int, **more: Any) -> Search:
        asked: dict[str, Any] = {
            "name": "search",
            "folder": str(self.folder / "tune"),
            "space": SPACE,
            "num_trials": num_trials,
            "metric": "eval_loss",
            "mode": "min",
            "searcher": BasicVariantGenerator(random_state=0),
            "scheduler": asha(),
            "num_at_once": at_once,
        }
        return Search(**asked | more)

    def close(self) -> dict[int, SimulatedPack]:
        """Tell the packs to end; returns them as they were at their end."""
        ray.get(self.host.close.remote())
        return dict(zip(self.runs, ray.get(list(self.runs.values()), timeout=60), strict=True))

    def reports(self, number: int) -> list[Mapping[str, Any]]:
        return [event.result for event in self.events if event.kind == "report" and event.number == number]


@contextmanager
def stage(folder: Path, trials: SimulatedTrials | None = None, num_leases: int = 8) -> Iterator[Stage]:
    host = open_host(num_leases, 2)
    stage = Stage(host, host.prepare.remote(forwarded(()), trials or SimulatedTrials(MAX_STEPS)), folder)
    try:
        yield stage
    finally:
        for actor in (*stage.actors.values(), host):
            ray.kill(actor)


def asha() -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(time_attr="steps", max_t=MAX_STEPS, grace_period=2, reduction_factor=2)


def made(
    searcher: str, scheduler: str, num_trials: int, budget: dict[str, int] | None = None, **space: Any
) -> SweepSpec:
    run = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}], "val_set_size": 0.1}
    run |= {"micro_batch_size": 1, "gradient_accumulation_steps": 4}
    asked = {"searcher": searcher, "scheduler": scheduler, "num_trials": num_trials}
    more = {"budget": budget or {"steps": MAX_STEPS}, "report_steps": 1, "reduction_factor": 2}
    space = {"learning_rate": {"loguniform": [1e-5, 1e-2]}} | space
    return SweepSpec.model_validate({"run": run, "space": space} | asked | more)


def main(folder: Path, scheduler: str) -> None:
    """Run a slow search, and say which trials have ended; for a test that kills it."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with stage(folder) as here:
        here.open_pack(0, 4, turn_s=0.05)

        def listen(event: TrialEvent) -> None:
            if event.kind == "end":
                print(event.number, flush=True)

        search = here.search(8, 4, scheduler=tune_scheduler(made("random", scheduler, 8)), save_reports=1)
        here.drive(search, listen=listen)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
