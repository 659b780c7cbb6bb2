"""The peaks of adapters and of all weights hold the same things: the process's own memory, and its base."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.full_side import mapped_bytes
from benchmarks.report_full import full
from benchmarks.results import load

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def test_what_lies_in_a_file_is_counted_and_a_copy_is_not(tmp_path: Path):
    save_file({"a": torch.ones(1000), "b": torch.ones(300)}, tmp_path / "weights.safetensors")
    opened = safe_open(tmp_path / "weights.safetensors", framework="pt")
    a, b = (opened.get_tensor(name) for name in "ab")
    assert mapped_bytes([a, b]) == 4 * 1300
    assert mapped_bytes([a.clone(), b]) == 4 * 300
    assert mapped_bytes([]) == 0


def test_every_peak_holds_the_base():
    """All of a plain base that is frozen is mapped, none of one that trains, and both come to the table's peak."""
    found = load(RESULTS, "full")
    assert found is not None
    methods = found["results"]["methods"]
    base = 4 * methods["full"]["trainable_parameters"]
    assert {name: methods[name]["mapped_bytes"] for name in ("LoRA r=16", "DoRA r=16", "full")} == {
        "LoRA r=16": base,
        "DoRA r=16": base,
        "full": 0,
    }
    rows = [line.split(" | ") for line in full(found["results"]).splitlines() if line.startswith("| LoRA r=16 |")]
    assert float(rows[0][5]) == round((methods["LoRA r=16"]["peak_bytes"]["median"] + base) / 1e6, 1)
