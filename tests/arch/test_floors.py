"""Imports only point down the floors, no module or folder is in a cycle, and ray and mlflow stay in their rooms."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, all_imports, module_graph

GROUND = {"errors", "log"}
BELOW_TRAIN = {"spec", "store", "data", "model", "objectives", "strategy"}
BELOW_RUNTIME = BELOW_TRAIN | {"train", "tracking", "adapters"}

# A room and the rooms below it that it may import, beside itself and the ground floor.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "log": set(),
    "spec": set(),
    "store": {"spec"},
    "data": {"spec", "store"},
    "model": {"spec", "store"},
    "objectives": {"spec", "model"},
    "strategy": {"spec", "model"},
    "train": BELOW_TRAIN,
    "adapters": BELOW_TRAIN | {"train"},
    "tracking": {"spec", "store"},
    "runtime": BELOW_RUNTIME,
    "sweep": BELOW_RUNTIME | {"runtime"},
    "service": BELOW_RUNTIME | {"runtime", "sweep"},
    "api": BELOW_RUNTIME | {"runtime", "sweep", "service"},
    "cli": BELOW_RUNTIME | {"runtime", "sweep", "service", "api"},
    "__main__": {"cli"},
}

# A library and the only rooms that may name it.
AT_HOME_IN = {
    "mlflow": {"tracking"},
    "ray": {"runtime", "sweep", "service"},
    "ray.train": {"runtime"},
    "ray.tune": {"sweep"},
}


def room(module: str) -> str:
    """``raylora.store.blob`` is in the room ``store``; the package's own ``__init__`` is in none."""
    return module.split(".")[1] if "." in module else ""


def arrows_up(package: Path) -> list[str]:
    problems = []
    for found in all_imports(package):
        if found.target.split(".")[0] != package.name:
            continue
        here, there = room(found.module), room(found.target)
        allowed = MAY_IMPORT.get(here, set()) | {here} | (GROUND if here in MAY_IMPORT.keys() - GROUND else set())
        if there in MAY_IMPORT and there not in allowed:
            problems.append(str(found))
    return problems


def strangers(package: Path) -> list[str]:
    def at_home(target: str, here: str) -> bool:
        libraries = [name for name in AT_HOME_IN if f"{target}.".startswith(f"{name}.")]
        return all(here in AT_HOME_IN[name] for name in libraries)

    return [str(found) for found in all_imports(package) if not at_home(found.target, room(found.module))]


def cycle(package: Path) -> list[str]:
    try:
        TopologicalSorter(module_graph(package)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def cycle_of_folders(package: Path) -> list[str]:
    """Folders of one room that import each other; the room itself is one, with its own modules."""
    inside: dict[str, dict[str, set[str]]] = {}
    for module, targets in module_graph(package).items():
        graph, here = inside.setdefault(room(module), {}), _folder(package, module)
        there = {_folder(package, target) for target in targets if room(target) == room(module)}
        graph.setdefault(here, set()).update(there - {here})
    try:
        for name in inside.keys() - {""}:
            TopologicalSorter(inside[name]).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _folder(package: Path, module: str) -> str:
    is_folder = package.parent.joinpath(*module.split(".")).is_dir()
    return module if is_folder else module.rpartition(".")[0]


def test_imports_only_point_down():
    assert arrows_up(PACKAGE) == []


def test_every_module_is_in_a_known_room():
    assert {room(module) for module in module_graph(PACKAGE)} - {""} <= MAY_IMPORT.keys()


def test_ray_and_mlflow_stay_in_their_rooms():
    assert strangers(PACKAGE) == []


def test_no_import_cycle():
    assert cycle(PACKAGE) == []


def test_no_folders_of_a_room_import_each_other():
    assert cycle_of_folders(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("spec/run.py", "from raylora.store import blob"),
        ("store/blob.py", "import raylora.data.collate"),
        ("errors.py", "from raylora.log import get_logger"),
        ("model/bank.py", "def load():\n    from raylora.train.loop import fit"),
        ("strategy/ddp.py", "from ..data.collate import Batch"),
        (
            "objectives/supervised.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from raylora import train",
        ),
        ("tracking/tracker.py", "import importlib\nimportlib.import_module('raylora.runtime.launch')"),
        ("__init__.py", "from raylora.api import train"),
    ],
)
def test_an_arrow_up_is_found(tmp_path: Path, file: str, text: str):
    assert len(arrows_up(plant(tmp_path, {file: text}))) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("train/loop.py", "import ray"),
        ("cli/show.py", "import mlflow.tracking"),
        ("sweep/drive.py", "from ray import train"),
        ("runtime/launch.py", "def go():\n    from ray.tune import Tuner"),
        ("model/source.py", "__import__('mlflow')"),
    ],
)
def test_a_library_in_the_wrong_room_is_found(tmp_path: Path, file: str, text: str):
    assert len(strangers(plant(tmp_path, {file: text}))) == 1


def test_libraries_in_their_rooms_pass(tmp_path: Path):
    files = {
        "runtime/launch.py": "import ray\nfrom ray.train.torch import TorchTrainer",
        "sweep/drive.py": "from ray import tune",
        "tracking/tracker.py": "from mlflow import MlflowClient",
        "data/rows.py": "import rayon, mlflower",
    }
    assert strangers(plant(tmp_path, files)) == []


def test_a_cycle_is_found(tmp_path: Path):
    files = {
        "spec/load.py": "from raylora.spec.run import RunSpec",
        "spec/run.py": "def f():\n    from raylora.spec import load",
    }
    assert set(cycle(plant(tmp_path, files))) == {"raylora.spec.load", "raylora.spec.run"}


def test_a_cycle_of_folders_is_found(tmp_path: Path):
    """No module is in one."""
    files = {
        "model/base/load.py": "from raylora.model.bank import packed",
        "model/bank/packed.py": "",
        "model/bank/heads.py": "from raylora.model.base import quant",
        "model/base/quant.py": "",
    }
    package = plant(tmp_path, files)
    assert cycle(package) == []
    assert set(cycle_of_folders(package)) == {"raylora.model.base", "raylora.model.bank"}
