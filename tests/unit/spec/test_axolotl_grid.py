"""axolotl's grid files are read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.errors import SpecError
from raylora.spec.sweeps.axolotl_grid import grid_sweep
from raylora.spec.sweeps.space import configurations, resolve
from tests.unit.spec.specs import LEAST

GRID = """\
learning_rate: [0.001, 0.01]
_:
  - {lora_r: 8, lora_alpha: 16}
  - {lora_r: 16, lora_alpha: 32}
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run_in(folder: Path) -> Path:
    return written(folder, "run.yaml", LEAST + "val_set_size: 0.1\n")


def test_values_are_combined_and_those_of_a_mapping_stay_together(tmp_path: Path):
    spec = grid_sweep(run_in(tmp_path), written(tmp_path, "grid.yaml", GRID)).spec
    assert (spec.searcher, spec.num_configurations, spec.run.base_model) == ("grid", 4, "org/model")
    assert [resolve(spec.space, sampled) for sampled in configurations(spec.space)] == [
        {"learning_rate": rate, "lora_r": rank, "lora_alpha": 2 * rank} for rate in (0.001, 0.01) for rank in (8, 16)
    ]


def test_json_and_a_bare_list_are_read(tmp_path: Path):
    rows = [{"lora_r": 8}, {"lora_r": 16, "lora_alpha": 1}]
    space = grid_sweep(run_in(tmp_path), written(tmp_path, "grid.json", json.dumps(rows))).spec.space
    assert [resolve(space, sampled) for sampled in configurations(space)] == rows


def test_its_own_words_are_translated_with_a_note(tmp_path: Path):
    grid = written(tmp_path, "grid.yaml", "adapter: [lora, qlora]\nlr_scheduler: [cosine, constant_with_warmup]\n")
    loaded = grid_sweep(run_in(tmp_path), grid)
    assert [resolve(loaded.spec.space, each) for each in configurations(loaded.spec.space)] == [
        {"adapter": "lora", **four_bit, "lr_scheduler": schedule}
        for four_bit in ({}, {"load_in_4bit": True})
        for schedule in ("cosine", "constant")
    ]
    assert any("qlora" in note and note.startswith("line 1: ") for note in loaded.notes)


def test_what_is_wrong_is_told_with_the_grids_lines(tmp_path: Path):
    grid = written(tmp_path, "grid.yaml", "lora_r: [8, 0]\nlora_s: [1]\nseed: 3\n_: [{lora_alpha: x}]\n")
    with pytest.raises(SpecError) as caught:
        grid_sweep(run_in(tmp_path), grid)
    assert [str(problem) for problem in caught.value.problems] == [
        "line 1: space.lora_r.choice.1: got 0; allowed: a whole number of at least 1",
        "line 2: space.lora_s: unknown key; nearest: lora_r",
        "line 3: space.seed: got 3; a grid file has a list of values for each key",
        "line 4: space._.choice.0: lora_alpha: got 'x'; allowed: a number above 0",
    ]


def test_a_file_that_is_no_grid_says_so(tmp_path: Path):
    with pytest.raises(SpecError, match="got 3; a grid file has keys with lists of values"):
        grid_sweep(run_in(tmp_path), written(tmp_path, "grid.yaml", "3"))


def test_files_of_another_kind_are_told_as_such(tmp_path: Path):
    run, grid = run_in(tmp_path), written(tmp_path, "grid.yaml", GRID)
    sweep = written(tmp_path, "sweep.yaml", f"run: {run}\nspace: {{lora_r: {{choice: [4, 8]}}}}\n")
    for words, command in (
        ((grid, run), f"raylora sweep {run} --grid GRID"),
        ((run, sweep), f"raylora sweep {sweep} --plan"),
        ((sweep, grid), f"raylora sweep {sweep} --plan"),
    ):
        with pytest.raises(SpecError) as caught:
            grid_sweep(*words)
        (problem,) = caught.value.problems
        assert command in problem.message
