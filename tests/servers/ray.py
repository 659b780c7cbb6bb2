"""A real Ray cluster that somebody else started: `ray start --head` in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.servers.host import Host
from tests.servers.process import Server, free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests"}
"""Ray's own lock: what lacks the token cannot talk to the cluster, and no token is left in anybody's home."""

# Python imports a module of this name when it starts: every process of the cluster notes the environment in which it
# goes on to import what trains. Until then it looks for garbage as seldom as tests do (`tests/conftest.py`).
SPY = """
import gc, json, os, sys

NOTES = os.environ.get("NOTES")  # now: a worker may forget it before it imports what trains
USUAL = gc.get_threshold()

def note(event, args):
    if event == "import" and args[0] == "raylora.runtime.job.job":
        gc.set_threshold(*USUAL)
        path = f"{NOTES}/{os.getpid()}"
        with open(path, "w") as file:
            json.dump(dict(os.environ), file)
        os.replace(path, path + ".json")  # whoever looks finds it whole

if NOTES:
    gc.set_threshold(50_000)
    sys.addaudithook(note)
"""


# A process of its own: Ray reads the token's variables once, when it is imported.
ASKING = """
import json, sys
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

state = GlobalState()
any_cluster = {"allow_cluster_id_nil": True, "fetch_cluster_id_if_nil": True}
state._initialize_global_state(GcsClientOptions.create(sys.argv[1], None, **any_cluster))
"""

CENSUS = """
actors, groups = state.actor_table(None, None, None).values(), state.placement_group_table().values()
free = state.available_resources()
print(json.dumps({
    "actors": [
        actor["ActorClassName"] for actor in actors if actor["State"] != "DEAD"
    ],
    "groups": [group["placement_group_id"] for group in groups if group["state"] != "REMOVED"],
    "taken": {name: all_ - free.get(name, 0.0) for name, all_ in state.cluster_resources().items()},
}))
"""

# The rows as Ray has them, protocol buffers with texts as they are; those of the dead, too. Beside them lies what has a
# key: pickled functions and classes, what was submitted as a job, what the dashboard knows.
TABLES = """
from ray._private import ray_constants
from ray._raylet import GcsClient

ask = state._connect_and_get_accessor()
jobs = ask.get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
kept, rooms = GcsClient(address=sys.argv[1]), vars(ray_constants).items()
for room in {value for name, value in rooms if name.startswith("KV_NAMESPACE_")}:
    for key in kept.internal_kv_keys(b"", room):
        jobs += [key, kept.internal_kv_get(key, room) or b""]
sys.stdout.buffer.write(b"\\n".join([*jobs, *ask.get_actor_table(None, None), *ask.get_worker_table()]))
"""


OURS = ("--disable-usage-stats", "--num-gpus=0", "--dashboard-agent-listen-port=0")
"""Of every node; its agent would take one port for all nodes of a machine."""

IDLE = "IDLE"
"""Processes kept ready for the next driver."""

SERVERS = {"raylet", "gcs_server"}
"""Processes of a node that serve all its drivers, one after the other."""


class RayHead(Server):
    """One node that may hold two workers.

    Args:
        folder: For its log and notes.
        num_cpus: Workers it may hold.
        host: The host to start it on; this one where absent.
        more: Further words of `ray start`.
        env: Further variables of its processes.
        takes_jobs: Whether it has Ray's server for jobs, which its dashboard is.
    """

    def __init__(
        self,
        folder: Path,
        num_cpus: int = 2,
        host: Host | None = None,
        more: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        takes_jobs: bool = False,
    ) -> None:
        port, jobs_port = free_ports(2)
        self.jobs = f"http://127.0.0.1:{jobs_port}/api/jobs/"
        self.address = f"{host.address if host else '127.0.0.1'}:{port}"
        # Sockets lie in it, and their paths must be short.
        self.session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.notes = folder / "notes"
        self.spying = spying(folder)
        self.door: Sequence[str] = host.door if host else ()
        """Words before a command that is to reach it."""
        where = [f"--node-ip-address={host.address}"] if host else []
        room = (f"--num-cpus={num_cpus}", f"--temp-dir={self.session}")
        dashboard = (f"--include-dashboard={str(takes_jobs).lower()}", f"--dashboard-port={jobs_port}")
        words = ray_start("--head", f"--port={port}", *room, *dashboard, *where, *more)
        super().__init__(
            [*self.door, *words],
            folder / "ray.log",
            lambda: "Ray runtime started" in self.log.read_text(),
            env={**self.own_env(), **self.spying, **(env or {})},
            stop_signal=signal.SIGKILL,  # at any other it takes its time
        )

    @property
    def env(self) -> dict[str, str]:
        """Makes a driver one of this cluster's."""
        return {"RAY_ADDRESS": self.address, **TOKEN}

    def own_env(self) -> Mapping[str, str]:
        """What processes of its nodes start with that note nothing, beside this process's own."""
        return {**TOKEN, "PYTHONPATH": str(REPOSITORY)}

    def stop(self, how: signal.Signals | None = None) -> None:
        super().stop(how)
        shutil.rmtree(self.session, ignore_errors=True)

    def seen_by_workers(self) -> dict[int, dict[str, str]]:
        """The environment of each worker that began to train, by its process id."""
        return seen_by_workers(self.notes)

    def workers(self) -> dict[int, str]:
        """Ranks of the workers that began to train and live, by process id."""
        seen = self.seen_by_workers().items()
        return {pid: env["RANK"] for pid, env in seen if "RANK" in env and psutil.pid_exists(pid)}

    def worker(self, rank: int) -> psutil.Process:
        """The process of a rank."""
        (pid,) = (pid for pid, its_rank in self.workers().items() if its_rank == str(rank))
        return psutil.Process(pid)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Its workers are stopped meanwhile, and go on afterwards."""
        pids = list(self.workers())
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _send(pid, signal.SIGCONT)

    def processes_of(self, actor: str) -> list[psutil.Process]:
        """Processes of the actors of a class."""
        return [process for process in self._processes() if _name(process).startswith(f"ray::{actor}")]

    def forget_workers(self) -> None:
        """Start anew with the next run."""
        for note in self.notes.glob("*.json"):
            note.unlink()

    def census(self) -> dict[str, list[str]]:
        """Actors and placement groups that live."""
        counted = self._counted()
        return {name: counted[name] for name in ("actors", "groups")}

    def in_use(self) -> dict[str, Any]:
        """Resources that somebody holds, and processes at work for drivers."""
        names = [_name(process) for process in self._processes()]
        at_work = [name for name in names if name.startswith("ray::") and IDLE not in name]
        return {"taken": self._counted()["taken"], "processes": sorted(at_work)}

    def held_bytes(self) -> int:
        """Memory of what outlives every driver: of its servers alone, and all that this machine's processes share."""
        servers = [each for each in self._processes() if Path(_name(each).partition(" ")[0]).name in SERVERS]
        assert len(servers) == len(SERVERS)
        held = [each.memory_info() for each in servers]
        return sum(each.rss - each.shared for each in held) + shutil.disk_usage("/dev/shm").used

    def tables(self) -> bytes:
        """What Ray keeps in memory, and in no file: of jobs, actors, workers and functions."""
        return self._asked(TABLES)

    def _processes(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def _counted(self) -> dict[str, Any]:
        return json.loads(self._asked(CENSUS))

    def _asked(self, question: str) -> bytes:
        return asked(self.address, question, os.environ | TOKEN, self.door)


def spying(folder: Path) -> dict[str, str]:
    """Variables with which each process of a Ray notes, in `notes` of a folder, what it sees as it begins to train."""
    site, notes = folder / "site", folder / "notes"
    site.mkdir()
    notes.mkdir()
    (site / "sitecustomize.py").write_text(SPY)
    return {"PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]), "NOTES": str(notes)}


def seen_by_workers(notes: Path) -> dict[int, dict[str, str]]:
    """The environment of each worker that began to train, by its process id."""
    return {int(note.stem): json.loads(note.read_text()) for note in notes.glob("*.json")}


def asked(address: str, question: str, env: Mapping[str, str], door: Sequence[str] = ()) -> bytes:
    """What a program prints that has the `state` of the cluster at an address."""
    words = [*door, sys.executable, "-c", ASKING + question, address]
    return subprocess.run(words, env=env, capture_output=True, check=True, timeout=120).stdout


def ray_start(*words: str) -> list[str]:
    """`ray start` of this environment's Ray, in the foreground."""
    script = Path(sysconfig.get_path("scripts")) / "ray"
    return [sys.executable, str(script), "start", *words, *OURS, "--block"]


def _send(pid: int, word: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, word)


def _name(process: psutil.Process) -> str:
    """Its title, or nothing where it is gone; who sets one fills it up with blanks to what its process began with."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
