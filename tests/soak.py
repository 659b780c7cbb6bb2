"""Runs that random faults strike for some minutes, each held against one that was left alone. `make soak` starts it.

The seed is printed; with the same one the same faults strike in the same order, though not at the same instants.
"""

from __future__ import annotations

import argparse
import os
import random
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

import psutil
import yaml
from mlflow import MlflowClient

from raylora.store.blob import open_store
from tests.cluster.command import LONG_S, Command, Running, overrides
from tests.cluster.conftest import RUN
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
ADAPTER = "adapter_model.safetensors"
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

    def workers(self) -> list[int]:
        """Worker processes that live."""
        return [pid for pid in self.head.seen_by_workers() if psutil.pid_exists(pid)]


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
        self._kinds: dict[str, Callable[[Running], None]] = {
            "a worker is killed": lambda running: self._signal_worker(signal.SIGKILL),
            "a worker is stopped": lambda running: self._signal_worker(signal.SIGSTOP),
            "the driver is killed": lambda running: self._signal_driver(running, signal.SIGKILL),
            "the driver is told to end": lambda running: self._signal_driver(running, signal.SIGTERM),
            "S3 misbehaves": lambda running: self._disturb_s3(),
            "S3 is killed and comes back": lambda running: self._restart(place.s3, 4.0),
            "MLflow is killed and comes back": lambda running: self._restart(place.mlflow, 6.0),
        }

    def strike(self, running: Running) -> None:
        """Let one fault strike a run."""
        name = self._chance.choice(sorted(self._kinds))
        self.struck[name] += 1
        print(f"    {name}", flush=True)
        self._kinds[name](running)

    def _signal_worker(self, number: signal.Signals) -> None:
        which, pids = self._chance.randrange(2), self._place.workers()
        with suppress(ProcessLookupError):
            if pids:
                os.kill(pids[which % len(pids)], number)

    def _signal_driver(self, running: Running, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(running.process.pid, number)

    def _disturb_s3(self) -> None:
        kind, method = self._chance.choice(KINDS), self._chance.choice(("PUT", "GET", "DELETE"))
        self._place.proxy.strike(Fault(kind, method, "", times=self._chance.randint(1, 5), seconds=1.0))

    def _restart(self, server: Server, after_s: float) -> None:
        server.stop(signal.SIGKILL)
        time.sleep(after_s)
        server.start()


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
                faults.strike(running)
        ended = running.end(LONG_S)
        if ended.code == 0:
            return ended.json
        assert ended.code in (1, 130, -signal.SIGKILL, -signal.SIGTERM), ended.err[-3000:]
        runs = open_store(place.s3.uri(name)).keys("runs")
        words = ["resume", runs[0].split("/")[1], "--store", store] if runs else words
    raise RuntimeError(f"{name} did not end in {MOST_STARTS} starts: {ended.err[-3000:]}")


def facts(place: Place, result: dict[str, Any]) -> dict[str, Any]:
    """What must be the same whatever struck."""
    client = MlflowClient(tracking_uri=place.mlflow.uri)
    history = client.get_metric_history(result["mlflow_run_id"], "train_loss")
    return {
        "adapter": open_store(result["adapter_uri"]).read(ADAPTER),
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
