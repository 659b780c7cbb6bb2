"""The scripts that wait for a GPU run on a CPU, on a Llama of one layer: what they tell, and how they are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.gpu import ablation, device, exact, guide, headline, kernels, low_rank, packing, paging, solo
from benchmarks.gpu.attempt import FAILED, OUT_OF_MEMORY, WHY_NOT, attempt
from benchmarks.gpu.claim import NOT_YET
from benchmarks.gpu.setting import Setting
from benchmarks.results import RESULTS
from raylora.errors import RunFailedError
from raylora.spec.run import RunSpec
from raylora.strategy import choose

TINY: dict[ModuleType, dict[str, Any]] = {
    headline: {"TOKENS": 16, "MOST_ROWS_OF_TOKENS": 2},
    packing: {"CASES": (packing.Case(rows=1, tokens=16, slots=2, goal=1.0),)},
    ablation: {"CASES": (packing.Case(rows=1, tokens=16, slots=2, goal=1.0),)},
    solo: {"ROWS": 2, "TOKENS": 16},
    exact: {"RANKS": (4, 4, 2), "TOKENS": 16},
    paging: {"RANK": 4, "TOKENS": 16},
    kernels: {"ROWS": (1, 80)},
    low_rank: {
        "CASES": (low_rank.Case("alike", (8, 8), (4, 4)), low_rank.Case("not alike", (8, 16), (4, 9))),
    },
}
BY_NAME = {module.SCRIPT.name: module for module in TINY}
CPU = torch.device("cpu")
SETTING = Setting(CPU, hidden=128, layers=1, turns=1)


def offloads_of_deepspeed(spec: RunSpec, device: torch.device) -> bool:
    """On a CPU as well: what is offloaded goes from the host to the host, but by the code of a GPU run."""
    return spec.distributed.cpu_offload and spec.distributed.strategy == "deepspeed"


@pytest.fixture(params=BY_NAME)
def told(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[ModuleType, dict[str, Any], str]:
    """A script, its JSON and what it printed, the table last."""
    module, out = BY_NAME[request.param], tmp_path / "found.json"
    for name, value in TINY[module].items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(choose, "offloads", offloads_of_deepspeed)
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    words = ["--device=cpu", "--hidden=128", "--layers=1", "--turns=2", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", [request.param, *words])
    module.SCRIPT.run()
    found = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert json.JSONDecoder().raw_decode(printed)[0] == found
    assert printed.endswith(f"\n{module.SCRIPT.words(found)}\n")
    return module, found["results"], printed


@pytest.mark.slow
def test_a_script_runs_on_a_cpu(told: tuple[ModuleType, dict[str, Any], str]):
    module, results, printed = told
    LOOKS[module](results)
    assert printed.rstrip().rpartition("\n")[2].startswith("| "), "a table comes last"
    assert not any(case.keys() & {WHY_NOT, FAILED} for case in results["cases"].values())


def _packing(results: dict[str, Any]) -> None:
    assert len(results["cases"]) == 2, "one shape, in both precisions"
    assert [case.get("goal") for case in results["cases"].values()] == [1.0, None]
    for case in results["cases"].values():
        assert case["pack_s"]["median"] > 0
        assert 1 <= case["floors_apart_by"] <= 2, "two slots alone read the base twice"


def _ablation(results: dict[str, Any]) -> None:
    steps, launches = results["cases"].values()
    assert steps["sides"].keys() == {ablation.PACK, ablation.ALONE, *ablation.WITHOUT}
    assert set(steps["first_losses_apart"].values()) == {0.0}, "to the bit, on a CPU with one thread"
    assert launches["sides"].keys() == {ablation.CALLED, ablation.REPLAYED}


def _headline(results: dict[str, Any]) -> None:
    cases = results["cases"]
    assert [case["tokens"] for case in cases.values()] == [16, 32, 16], "all of it fits 80 GB"
    assert cases["largest base"]["layers"] == 4
    assert all(case["losses"] for case in cases.values())


def _solo(results: dict[str, Any]) -> None:
    ways = {"PEFT", "PEFT, adapters in bfloat16"}
    assert {name.partition(": ")[2] for name in results["cases"]} == {*ways, solo.CHOICES}
    for name, case in results["cases"].items():
        others = solo.OTHERWISE if name.endswith(solo.CHOICES) else {name.partition(": ")[2]}
        assert case["sides"].keys() == {solo.OURS, *others}


def _exact(results: dict[str, Any]) -> None:
    assert len(results["cases"]) == 6
    for name, case in results["cases"].items():
        if name.startswith("float32"):
            assert case["apart"] == 0, "to the bit, on a CPU with one thread"
        assert case["again_same_bits"] == 1
    unpacked, by_rows = (case["losses"] for name, case in results["cases"].items() if "4 tokens" in name)
    assert torch.tensor(by_rows) == pytest.approx(torch.tensor(unpacked), abs=exact.TOLERANCES["bfloat16"])


def _paging(results: dict[str, Any]) -> None:
    assert results["cases"].keys() == paging.SIDES.keys()
    losses = {name: side["losses"] for name, side in results["cases"].items()}
    first, rounded = losses[paging.PLAIN], losses.pop("adamw_bnb_8bit")
    assert all(each == pytest.approx(first) for each in losses.values()), "all others are torch's AdamW on a CPU"
    assert rounded == pytest.approx(first, abs=0.05)


def _kernels(results: dict[str, Any]) -> None:
    few, many = list(results["cases"].values())[:2]
    assert few["floor_s"] > 0 and few["moved_bytes"] < many["moved_bytes"]
    assert few["off"].keys() == {name for name in few["times_floor"] if name != kernels.CALLED}


def _low_rank(results: dict[str, Any]) -> None:
    alike, unlike = results["cases"].values()
    assert alike["sides"].keys() == {*low_rank.SIDES}
    assert unlike["sides"].keys() == {low_rank.ONE_BY_ONE, low_rank.GROUPED}


LOOKS = {
    packing: _packing,
    ablation: _ablation,
    headline: _headline,
    solo: _solo,
    exact: _exact,
    paging: _paging,
    kernels: _kernels,
    low_rank: _low_rank,
}


@pytest.mark.parametrize("limit", [1, 5, 8])
def test_the_largest_that_fits_is_found(limit: int):
    assert headline._most(lambda number: number <= limit, 8) == limit


@pytest.mark.slow
def test_less_is_tried_where_a_prediction_was_too_bold(monkeypatch: pytest.MonkeyPatch):
    def train(setting: Setting, peaks: object, case: headline.Case) -> dict[str, Any]:
        if case.layers > 15:
            raise torch.OutOfMemoryError
        return {"peak_bytes": 1}

    monkeypatch.setattr(headline, "_train", train)
    cases = [headline.Case(layers, 16, 10**9) for layers in headline._less_and_less(16)]
    found = headline._first_that_fits(SETTING, headline.Peaks(1.0, 1.0), "largest", lambda: cases)
    assert (found["layers"], found["peak_bytes"]) == (15, 1)


def fails(error: Exception, cause: Exception | None = None) -> dict[str, Any]:
    raise error from cause


@pytest.mark.parametrize("cause", [None, torch.OutOfMemoryError()], ids=["itself", "of a slot"])
def test_a_case_without_memory_costs_the_others_nothing(cause: Exception | None):
    error = torch.OutOfMemoryError() if cause is None else RunFailedError("no memory is left for an adapter")
    assert attempt(SETTING, "case", lambda: fails(error, cause)) == {WHY_NOT: OUT_OF_MEMORY}


def test_a_case_that_fails_says_so(capsys: pytest.CaptureFixture[str]):
    assert attempt(SETTING, "case", lambda: fails(ValueError("no such\nkernel"))) == {FAILED: "ValueError: no such"}
    assert "no such\nkernel" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_case_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(kernels, "ROWS", (1,))
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    monkeypatch.setitem(kernels.TOLERANCES, torch.float32, 0.0)
    monkeypatch.setattr(kernels, "dtype_on", lambda device: torch.float32)
    monkeypatch.setattr(sys, "argv", ["kernels", "--device=cpu", "--hidden=128", "--layers=1", "--turns=1"])
    with pytest.raises(SystemExit, match=r"128 x 128, 1 rows .NotTheSameError"):
        kernels.SCRIPT.run()
    assert "| 128 x 128, 1 rows | failed |" in capsys.readouterr().out


@pytest.mark.slow
def test_no_case_begins_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    for module, tiny in TINY.items():
        for name, value in tiny.items():
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(sys, "argv", ["script", "--device=cpu", "--hidden=128", "--layers=1", "--minutes=0"])
        module.SCRIPT.run()
        printed = capsys.readouterr().out
        results = json.JSONDecoder().raw_decode(printed)[0]["results"]
        assert all("time was up" in case[WHY_NOT] for case in results["cases"].values())
        assert "time was up" in printed.rpartition("}\n")[2]


def test_the_guide_says_beside_each_claim_what_was_not_measured(tmp_path: Path):
    claims = [claim.words for script in guide.SCRIPTS for claim in script.claims]
    text = guide.render(tmp_path)
    assert all(f"| {words} | {NOT_YET} |" in text for words in claims)


def test_the_guide_takes_up_a_result(tmp_path: Path):
    case = {"num_rows": 1, "floor_s": 1e-5, "times_floor": {"raylora": {"median": 3}}}
    found = {
        "machine": {"date": "2026-01-01", "device": "a device", "gib": 80.0, "versions": {"torch": "2"}},
        "about": Setting(CPU, 4096, 32, 5).words,
        "results": {
            "dtype": "bfloat16",
            "peaks": {"flops_per_s": 1e15, "bytes_per_s": 1e12},
            "cases": {"8 x 8, 1 rows": case},
        },
    }
    (tmp_path / "gpu_kernels.json").write_text(json.dumps(found))
    text = guide.render(tmp_path)
    assert text.count(NOT_YET) == guide.render(RESULTS).count(NOT_YET) - 1
    assert "2026-01-01, a device" in text and "| 8 x 8, 1 rows | 10.0 | 3.0 |" in text
    assert "| 3.0 to 3.0 times the floor |" in text


@pytest.mark.parametrize(("median", "verdict"), [(2.6, "2.60: held"), (2.4, "2.40: **missed**")])
def test_a_claim_is_held_or_missed(median: float, verdict: str):
    case = packing.CASES[0]
    cases = {f"base; {case.name}": {"goal": case.goal, "pack_is_faster_by": {"median": median}}}
    (claim,) = (claim for claim in packing.SCRIPT.claims if claim.words.startswith(case.name))
    assert claim.row({"cases": cases})[1] == verdict


def test_the_guide_is_what_the_results_say():
    assert (Path(__file__).parents[2] / "docs" / "benchmarks-gpu.md").read_text() == guide.render(RESULTS)
