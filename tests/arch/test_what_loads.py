"""The command line and the spec load nothing heavy; the training core loads without ray and mlflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arch.interpreter import ImportFailed, loaded_after
from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, REPOSITORY, module_paths

HEAVY = {"bitsandbytes", "datasets", "deepspeed", "mlflow", "peft", "ray", "torch", "transformers"}
CORE = ("spec", "store", "data", "model", "objectives", "strategy", "train")


def modules_of(package: Path, *rooms: str) -> list[str]:
    return [module for module in module_paths(package) if module.split(".")[1:2] and module.split(".")[1] in rooms]


@pytest.mark.parametrize("room", ["spec", "cli"])
def test_light_rooms_load_nothing_heavy(room: str):
    modules = modules_of(PACKAGE, room)
    assert modules
    assert loaded_after(modules, REPOSITORY) & HEAVY == set()


def test_a_sweeps_report_loads_nothing_heavy():
    assert loaded_after(["raylora.sweep.reporting.report", "raylora.cli.trials"], REPOSITORY) & HEAVY == set()


def test_what_lies_between_the_driver_and_its_workers_does_without_torch():
    actors = ["runtime.cluster.mailbox", "runtime.pack.desk", "sweep.steering.host"]
    in_ray_trains_controller = [f"runtime.cluster.{name}" for name in ("introduction", "network", "recovery")]
    modules = [f"raylora.{name}" for name in (*actors, *in_ray_trains_controller, "runtime.worker")]
    assert "torch" not in loaded_after(modules, REPOSITORY)


@pytest.fixture(scope="module")
def of_the_core() -> set[str]:
    """What all modules of the training core load, where there is no Ray."""
    modules = modules_of(PACKAGE, *CORE)
    assert modules
    loaded = loaded_after(modules, REPOSITORY, absent=["ray"])
    assert set(modules) <= loaded
    return loaded


@pytest.mark.slow
def test_packing_a_base_and_stepping_by_zero_do_without_torchs_compiler(of_the_core: set[str]):
    """As all of the core does until a step is compiled."""
    assert {"bitsandbytes.functional", "deepspeed.runtime.zero.muon.original_muon"} <= of_the_core
    assert "torch._inductor.compile_fx" not in of_the_core


@pytest.mark.slow
def test_training_core_loads_without_ray_and_mlflow(of_the_core: set[str]):
    """Nor does any library of the core's take MLflow along, as DeepSpeed would."""
    assert "mlflow" not in of_the_core


def test_a_heavy_import_is_found(tmp_path: Path):
    package = plant(tmp_path, {"cli/app.py": "import raylora.cli.show", "cli/show.py": "import colorsys"})
    assert "colorsys" in loaded_after(modules_of(package, "cli"), tmp_path)
    assert "colorsys" not in loaded_after(["raylora.cli"], tmp_path)


def test_an_import_of_what_is_absent_is_found(tmp_path: Path):
    package = plant(tmp_path, {"train/loop.py": "from colorsys import rgb_to_hsv"})
    with pytest.raises(ImportFailed, match="colorsys"):
        loaded_after(modules_of(package, "train"), tmp_path, absent=["colorsys"])
