"""What the tests of whole runs share: a tiny base and rows made here, and a Ray cluster that was there before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.command import Command, Ended, overrides
from tests.conftest import served
from tests.servers.ray import RayHead, spying
from tests.unit.train.tiny_run import save_base, write_chats

# Paths are relative: they start at the folder that the command runs in, on every worker.
RUN = {
    "base_model": "base",
    "load_in_4bit": True,
    "dtype": "float32",  # equal bits are promised in it, and `auto` takes another where a CPU has units for it
    "datasets": [{"path": "rows.jsonl"}],
    "val_set_size": 12,
    "sequence_len": 128,
    "sample_packing": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 24,
    "eval_steps": 12,
    "save_steps": 8,
    "learning_rate": 5e-3,
    "sample_prompts": ["what does the model read"],
    "sample_max_new_tokens": 4,
    "distributed": {"strategy": "fsdp", "num_workers": 2},
    "tracking": {"system_metrics": False},
}

WITHOUT = ("sample_prompts", "sample_max_new_tokens", "save_steps", "max_steps", "eval_steps")
SWEPT = {name: value for name, value in RUN.items() if name not in WITHOUT} | {
    "gradient_accumulation_steps": 1,
    "lora_dropout": 0.0,
}
PASSWORD = "MLFLOW_TRACKING_PASSWORD"
"""Of the driver alone: no worker writes to MLflow."""

ALONE_ON_ITS_RANK = {"strategy": "ddp", "num_workers": 1, "cpus_per_worker": 1.5}
"""On the cluster of the tests, one pack at a time; in one thread, since two may take a sum in another order."""

GANG: dict[str, Any] = {"strategy": "fsdp", "num_workers": 2, "cpus_per_worker": 0.65}
"""On the cluster of the tests there is room for three such workers: for one gang, and for half of another."""

ASHA: dict[str, Any] = {
    "run": SWEPT,
    "num_trials": 16,
    "scheduler": "asha",
    "budget": {"steps": 8},
    "report_steps": 1,
    "grace_period": 1,
    "reduction_factor": 2,
    "slots": 8,
    "space": {
        "learning_rate": {"loguniform": [1e-4, 3e-2]},
        "lora_r": {"choice": [4, 8, 16]},
        "lora_alpha": {"ratio": 2, "of": "lora_r"},
    },
}
"""Two workers that share an NF4 base by FSDP2, and eight slots."""

GRID: dict[str, Any] = {
    "run": SWEPT | {"distributed": ALONE_ON_ITS_RANK, "save_steps": 4, "lora_dropout": 0.1},
    "searcher": "grid",
    "budget": {"steps": 40},
    "report_steps": 2,
    "slots": 3,
    "space": {"learning_rate": {"choice": [1e-3, 1e30, 5e-3, 2e-3]}, "lora_r": {"choice": [8]}},
}
"""One worker, three slots; the second trial's loss is not finite after its first steps."""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of three layers, 200 chats, and the files of a run and of two sweeps."""
    folder = tmp_path_factory.mktemp("workplace")
    save_base(folder / "base")
    write_chats(folder / "rows.jsonl", 200)
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
    (folder / "asha.yaml").write_text(yaml.safe_dump(ASHA))
    return folder


@pytest.fixture(scope="session")
def new_home(mlflow_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes homes with MLflow's tables and nothing else."""
    return lambda: Path(shutil.copy(mlflow_tables, tmp_path_factory.mktemp("home"))).parent


@pytest.fixture(scope="session")
def whole_run(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, Ended]:
    """The run, never interrupted, in an empty home, on a Ray of its own."""
    env = spying(tmp_path_factory.mktemp("spy")) | {PASSWORD: "of-the-driver-alone", "GREETING": "hello"}
    command = Command(workplace, tmp_path_factory.mktemp("home"), env)
    words = overrides("tracking.system_metrics=true", "ray.forward_env=[GREETING]")
    return command, command.run("train", "run.yaml", "--json", *words)


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A Ray cluster with room for two workers that knows nothing of its drivers' environments."""
    yield from served(RayHead(tmp_path_factory.mktemp("ray-head")))


@pytest.fixture(scope="session")
def whole_grid(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> tuple[Command, Ended]:
    """A grid of which one trial fails, never interrupted and with no checkpoint kept."""
    command = Command(workplace, new_home(), ray_head.env)
    return command, command.run("sweep", "grid.yaml", "--json", "--set", "save_steps=null")


@pytest.fixture(scope="session")
def whole_asha(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, Ended]:
    """ASHA over 16 trials, in an empty home, on a Ray of its own."""
    command = Command(workplace, tmp_path_factory.mktemp("home"))
    return command, command.run("sweep", "asha.yaml", "--json")


@pytest.fixture
def on_head(workplace: Path, ray_head: RayHead, new_home: Callable[[], Path]) -> Command:
    """The command on the cluster that was there before, in a home without runs."""
    return Command(workplace, new_home(), ray_head.env)


@pytest.fixture
def newcomer(workplace: Path, ray_head: RayHead, tmp_path: Path) -> Command:
    """The command on the cluster that was there before, in an empty home."""
    return Command(workplace, tmp_path / "home", ray_head.env)
