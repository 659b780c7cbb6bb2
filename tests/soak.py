"""Runs that random faults strike for some minutes, each held against one that was left alone. `make soak` starts it.

The seed is printed; with the same one the same faults strike in the same order, though not at the same instants.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import yaml
from mlflow import MlflowClient

from raylora.errors import CorruptObjectError, MissingObjectError
from raylora.store.blob import open_store
from raylora.store.checkpoint import FOLDER, load_checkpoint
from raylora.store.contract import Store
from raylora.store.manifest import MANIFEST
from raylora.store.runs import run_store
from tests.cluster.command import LONG_S, Command, Running, overrides
from tests.cluster.conftest import RUN
from tests.cluster.damage import damage, truncated, with_a_bit_flipped
from tests.cluster.undisturbed import adapter_bits
from tests.servers.fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from tests.servers.mlflow import MlflowServer
from tests.servers.process import Server
from tests.servers.ray import RayHead
from tests.servers.s3 import S3Server
from tests.unit.train.tiny_run import save_base, write_chats

NUM_STEPS = 40
SETTINGS = (
    *(f"max_steps={NUM_STEPS}", "gradient_accumulation_steps=8", "eval_steps=20", "save_steps=5", "sample_prompts=[]"),
    *("distributed.max_failures=99", "distributed.worker_timeout_s=10"),
)
MOST_STARTS = 40
DAMAGES = (truncated, with_a_bit_flipped)
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind not in ("expired", "hold"))


class Place:
    """Everything that a run needs, and that can be struck.

    Args:
        folder: For all of it.
        stack: Takes the servers down.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        save_base(folder / "base")
        write_chats(folder / "rows.jsonl", 200)
        (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
        names = ("ray", "s3", "mlflow", "home")
        for name in names:
            (folder / name).mkdir()
        self.head, self.s3, self.mlflow = (
            stack.enter_context(serving(server))
            for server in (RayHead(folder / "ray"), S3Server(folder / "s3"), MlflowServer(folder / "mlflow"))
        )
        self.proxy: FaultProxy = stack.enter_context(fault_proxy(self.s3.endpoint))
        os.environ.update(self.s3.env)  # this process looks into the bucket past the proxy
        tracked = {"MLFLOW_TRACKING_URI": self.mlflow.uri, "AWS_ENDPOINT_URL": self.proxy.endpoint}
        self.command = Command(folder, folder / "home", {**self.head.env, **self.s3.env, **tracked})


@contextmanager
def serving(server: Server) -> Iterator[Any]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Faults:
    """What may strike, drawn by a seed.

    Args:
        place: What it strikes.
        chance: Draws.
    """

    def __init__(self, place: Place, chance: random.Random) -> None:
        self._place, self._chance, self.struck = place, chance, Counter[str]()
        self._kinds: dict[str, Callable[[Running, Store], bool]] = {
            "a worker is killed": lambda running, store: self._signal_worker(signal.SIGKILL),
            "a worker is stopped": lambda running, store: self._signal_worker(signal.SIGSTOP),
            "the controller is killed": lambda running, store: self._kill_controller(),
            "the driver is killed": lambda running, store: self._signal_driver(running, signal.SIGKILL),
            "the driver is told to end": lambda running, store: self._signal_driver(running, signal.SIGTERM),
            "the newest checkpoint is damaged, and a worker killed": lambda running, store: self._damage(store),
            "S3 misbehaves": lambda running, store: self._disturb_s3(),
            "S3 is killed and comes back": lambda running, store: self._restart(place.s3, 4.0),
            "MLflow is killed and comes back": lambda running, store: self._restart(place.mlflow, 6.0),
        }

    def strike(self, running: Running, store: Store) -> None:
        """Let one fault strike a run, whose records and checkpoints are in a store."""
        name = self._chance.choice(sorted(self._kinds))
        print(f"    {name}", flush=True)
        if self._kinds[name](running, store):
            self.struck[name] += 1
        else:
            print("      not now: there is nothing to strike", flush=True)

    def _signal_worker(self, number: signal.Signals) -> bool:
        return self._signal_either(self._chance.randrange(2), number)

    def _signal_either(self, which: int, number: signal.Signals) -> bool:
        pids = list(self._place.head.workers())
        return bool(pids) and _signalled(pids[which % len(pids)], number)

    def _kill_controller(self) -> bool:
        found = self._place.head.processes_of("TrainController")
        for process in found:
            _signalled(process.pid, signal.SIGKILL)
        return bool(found)

    def _signal_driver(self, running: Running, number: signal.Signals) -> bool:
        return _signalled(running.process.pid, number)

    def _damage(self, store: Store) -> bool:
        """Where there is a whole one before it: a run whose checkpoints are all corrupt ends, as it should."""
        how, which = self._chance.choice(DAMAGES), self._chance.randrange(2)
        runs = store.keys("runs")
        own = run_store(store, runs[0].split("/")[1]) if runs else None
        steps = saved_steps(own) if own else []
        if own is None or len(steps) < 2:
            return False
        try:
            load_checkpoint(own.uri_of(f"{FOLDER}/step-{steps[-2]:08d}"))
            damage(own, steps[-1], how)
        except (MissingObjectError, CorruptObjectError):  # deleted meanwhile, or damaged before
            return False
        self._signal_either(which, signal.SIGKILL)  # so that it is read
        return True

    def _disturb_s3(self) -> bool:
        kind, method = self._chance.choice(KINDS), self._chance.choice(("PUT", "GET", "DELETE"))
        self._place.proxy.strike(Fault(kind, method, "", times=self._chance.randint(1, 5), seconds=1.0))
        return True

    def _restart(self, server: Server, after_s: float) -> bool:
        server.stop(signal.SIGKILL)
        time.sleep(after_s)
        server.start()
        return True


def _signalled(pid: int, number: signal.Signals) -> bool:
    """Whether there was a process to take a signal."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def saved_steps(own: Store) -> list[int]:
    """Steps of a run's checkpoints that have a manifest."""
    saved = (re.fullmatch(rf"{FOLDER}/step-(\d+)/{MANIFEST}", key) for key in own.keys(FOLDER))
    return sorted(int(match[1]) for match in saved if match)


def train(place: Place, name: str, faults: Faults | None, chance: random.Random) -> dict[str, Any]:
    """Train a run to its end, however often it has to be resumed."""
    place.head.forget_workers()
    store = place.s3.uri(name)
    words = ["train", "run.yaml", *overrides(*SETTINGS, f"storage.uri={store}", f"tracking.experiment={name}")]
    for _ in range(MOST_STARTS):
        running = place.command.start(*words, "--json")
        while faults is not None and running.process.poll() is None:
            with suppress(Exception):
                running.process.wait(chance.uniform(4.0, 14.0))
            if running.process.poll() is None:
                faults.strike(running, open_store(store))
        ended = running.end(LONG_S)
        if ended.code == 0:
            return ended.json
        assert ended.code in (1, 130, -signal.SIGKILL, -signal.SIGTERM), ended.err[-3000:]
        runs = open_store(store).keys("runs")
        words = ["resume", runs[0].split("/")[1], "--store", store] if runs else words
    raise RuntimeError(f"{name} did not end in {MOST_STARTS} starts: {ended.err[-3000:]}")


def facts(place: Place, result: dict[str, Any]) -> dict[str, Any]:
    """What must be the same whatever struck."""
    client = MlflowClient(tracking_uri=place.mlflow.uri)
    history = client.get_metric_history(result["mlflow_run_id"], "train_loss")
    return {
        "adapter": adapter_bits(result),
        "steps in MLflow": [point.step for point in history],
        **{name: result[name] for name in ("steps", "tokens", "train_loss", "eval_loss", "eval_loss_before")},
    }


def main() -> int:
    """Soak for as long as asked; 1 where a run ended otherwise than the one that was left alone."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--minutes", type=float, default=20.0)
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = asked.parse_args()
    print(f"soak: seed {options.seed}, {options.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="raylora-soak-"))
    chance, num_runs, apart = random.Random(options.seed), 0, 0
    try:
        with ExitStack() as stack:
            place = Place(folder, stack)
            wanted = facts(place, train(place, "undisturbed", None, chance))
            assert wanted["steps in MLflow"] == list(range(1, NUM_STEPS + 1))
            faults, ends_at = Faults(place, random.Random(options.seed)), time.monotonic() + 60 * options.minutes
            while time.monotonic() < ends_at:
                num_runs += 1
                print(f"  run {num_runs}", flush=True)
                found = facts(place, train(place, f"run-{num_runs}", faults, chance))
                differs = [name for name, value in wanted.items() if found[name] != value]
                apart += bool(differs)
                print(f"    differs in: {', '.join(differs)}" if differs else "    as undisturbed", flush=True)
            for name, number in sorted(faults.struck.items()):
                print(f"  {number:3d} times {name}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"soak: {num_runs} runs, {apart} of them other than the undisturbed one")
    return int(bool(apart) or not num_runs)


if __name__ == "__main__":
    sys.exit(main())
