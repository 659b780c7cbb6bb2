"""The scripts that wait for a GPU run on a CPU, on a Llama of one layer: what they tell, and how they are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.gpu import device, exact, guide, headline, kernels, packing, paging, solo
from benchmarks.gpu.random_base import llama_config, random_model, random_trainee
from benchmarks.gpu.setting import Setting
from benchmarks.results import RESULTS
from raylora.spec.run import RunSpec

TINY: dict[ModuleType, dict[str, Any]] = {
    headline: {"TOKENS": 16, "MOST_ROWS_OF_TOKENS": 2},
    packing: {"CASES": (packing.Case(rows=1, tokens=16, slots=2, goal=1.0),)},
    solo: {"ROWS": 2, "TOKENS": 16},
    exact: {"RANKS": (4, 4, 2), "TOKENS": 16},
    paging: {"RANK": 4, "TOKENS": 16},
    kernels: {"ROWS": (1, 4)},
}
BY_NAME = {module.SCRIPT.name: module for module in TINY}
CPU = torch.device("cpu")


@pytest.fixture(params=BY_NAME)
def told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[ModuleType, dict[str, Any], str]:
    """A script, its JSON and what it printed, the table last."""
    module, out = BY_NAME[request.param], tmp_path / "found.json"
    for name, value in TINY[module].items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    words = ["--device=cpu", "--hidden=128", "--layers=1", "--turns=2", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", [request.param, *words])
    module.SCRIPT.run()
    found = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert printed == f"{json.dumps(found, indent=1)}\n{module.SCRIPT.words(found)}\n"
    return module, found["results"], printed


def test_a_script_runs_on_a_cpu(told: tuple[ModuleType, dict[str, Any], str]):
    module, results, printed = told
    LOOKS[module](results)
    assert printed.rstrip().rpartition("\n")[2].startswith("| "), "a table comes last"


def _packing(results: dict[str, Any]) -> None:
    (case,) = results["cases"].values()
    assert case["pack_s"]["median"] > 0


def _headline(results: dict[str, Any]) -> None:
    cases = results["cases"]
    assert [case["tokens"] for case in cases.values()] == [16, 32, 16], "all of it fits 80 GB"
    assert cases["largest base"]["layers"] == 4
    assert all(case["losses"] for case in cases.values())


def _solo(results: dict[str, Any]) -> None:
    assert len(results["cases"]) == 2, "one shape, in both precisions"
    for case in results["cases"].values():
        assert {side for pair in case.values() for side in pair["sides"]} == {"raylora", *solo.ADAPTERS}


def _exact(results: dict[str, Any]) -> None:
    assert len(results["cases"]) == 4
    for name, case in results["cases"].items():
        if name.startswith("float32"):
            assert case["apart"] == 0, "to the bit, on a CPU with one thread"
        assert case["again_same_bits"] == 1


def _paging(results: dict[str, Any]) -> None:
    assert results["sides"].keys() == paging.SIDES.keys()
    first = results["sides"][paging.PLAIN]["losses"]
    assert all(side["losses"] == pytest.approx(first) for side in results["sides"].values()), "all are AdamW on a CPU"


def _kernels(results: dict[str, Any]) -> None:
    assert len(results["cases"]) == 3
    for by_rows in results["cases"].values():
        assert by_rows["1"]["floor_s"] > 0
        assert by_rows["1"]["moved_bytes"] < by_rows["4"]["moved_bytes"]


LOOKS = {packing: _packing, headline: _headline, solo: _solo, exact: _exact, paging: _paging, kernels: _kernels}


@pytest.mark.parametrize("bits", [4, 16])
def test_both_sides_of_a_comparison_have_the_same_weights(bits: int):
    spec = RunSpec.model_validate(
        {"base_model": "x", "datasets": [{"path": "x"}], "load_in_4bit": bits == 4, "dtype": "float32"}
    )
    config = llama_config(128, 2)
    ours, theirs = random_trainee(config, spec, CPU).model, random_model(config, spec, CPU)
    ids_BT = torch.arange(12).view(1, 12)
    torch.testing.assert_close(theirs(ids_BT).logits, ours(ids_BT).logits)


@pytest.mark.parametrize("limit", [1, 5, 8])
def test_the_largest_that_fits_is_found(limit: int):
    assert headline._most(lambda number: number <= limit, 8) == limit


def test_the_guide_says_what_was_not_measured(tmp_path: Path):
    assert guide.render(tmp_path).count(guide.MISSING) == len(guide.SCRIPTS)


def test_the_guide_takes_up_a_result(tmp_path: Path):
    peaks, case = (
        {"flops_per_s": 1e15, "bytes_per_s": 1e12},
        {"floor_s": 1e-5, "times_floor": {"raylora": {"median": 3}}},
    )
    setting = Setting(CPU, 4096, 32, 5)
    found = {
        "machine": {"date": "2026-01-01", "device": "a device", "gib": 80.0, "versions": {"torch": "2"}},
        "about": setting.words,
        "results": {"dtype": "bfloat16", "peaks": peaks, "cases": {"8 x 8": {"1": case}}},
    }
    (tmp_path / "gpu_kernels.json").write_text(json.dumps(found))
    text = guide.render(tmp_path)
    assert text.count(guide.MISSING) == len(guide.SCRIPTS) - 1
    assert "2026-01-01, a device" in text and "| 8 x 8 | 1 | 10 | 3.0 |" in text


def test_the_guide_is_what_the_results_say():
    assert (Path(__file__).parents[2] / "docs" / "benchmarks-gpu.md").read_text() == guide.render(RESULTS)
