"""All ranks of a run go on from one checkpoint, or none takes a step."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.errors import CorruptObjectError, UnusableStoreError
from raylora.runtime.job.same_checkpoint import load_alike
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.train.ranks import Ranks
from tests.contract.strategy_group import run_group
from tests.unit.runtime.checkpoint_worker import CASES, PACK
from tests.unit.train.tiny_run import save_materials


def save(store: Store, step: int, value: float) -> None:
    save_checkpoint(store, Checkpoint(step, {"w": torch.full((4,), value)}, {"step": step}), keep=2)


def save_for_both(folder: Path) -> dict[str, Store]:
    """Steps 1 and 2 for each rank of each case; returns the second rank's."""
    for case in CASES:
        for rank in (0, 1):
            store = open_store(str(folder / case / f"rank-{rank}"))
            for step in (1, 2):
                save(store, step, float(step))
            if case == "both empty":
                store.delete("checkpoints")
    return {case: open_store(str(folder / case / "rank-1")) for case in CASES}


@pytest.mark.slow
def test_ranks_that_hold_other_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    save_materials(tmp_path, 20)
    second = save_for_both(tmp_path)
    second["one damaged"].write("checkpoints/step-00000002/state.safetensors", b"damaged")
    second["one empty"].delete("checkpoints")
    save(second["others"], 2, 7.0)
    for step in (1, 2):
        second["one all damaged"].write(f"checkpoints/step-{step:08d}/state.json", b"damaged")
    last_words = run_group(tmp_path, program="tests.unit.runtime.checkpoint_worker")

    heard = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("heard-*.json"))]
    assert len(heard) == 2, last_words
    assert [each.pop("pack") for each in heard] == [[f"failed: {heard[0][PACK]}"], []], "rank 0 speaks for both"
    assert heard[0] == heard[1]
    assert (heard[0]["alike"], heard[0]["both empty"]) == ("step 2", "anew")
    holds_two = r"rank 0 on \S+ holds step 2 \(\w{12}\); rank 1 on \S+"
    for case, other in {
        "one damaged": r"holds step 1 \(\w{12}\)",
        "one empty": "begins anew",
        "others": r"holds step 2 \(\w{12}\)",
        "one all damaged": r"cannot load one \(.*all 2 checkpoints are corrupt.*\)",
    }.items():
        said = rf"storage\.uri: the workers do not .*: {holds_two} {other}; storage\.uri must be one folder that all"
        assert re.match(said, heard[0][case]), heard[0][case]


class WithOneThatReadsNothing(Ranks):
    """Beside a rank whose key has expired."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ("far", "cannot load one (ExpiredToken)", True)]


def test_where_one_can_read_nothing_no_checkpoint_is_blamed(tmp_path: Path):
    store = open_store(str(tmp_path))
    save(store, 1, 1.0)
    with pytest.raises(UnusableStoreError, match=r"^rank 1 on far cannot load one \(ExpiredToken\)$"):
        load_alike(WithOneThatReadsNothing(), partial(load_latest, store))


def test_where_all_fail_alike_the_error_is_the_store_s(tmp_path: Path):
    store = open_store(str(tmp_path))
    save(store, 1, 1.0)
    store.write("checkpoints/step-00000001/state.json", b"damaged")
    with pytest.raises(CorruptObjectError, match="all 1 checkpoints are corrupt"):
        load_alike(Ranks(), partial(load_latest, store))
