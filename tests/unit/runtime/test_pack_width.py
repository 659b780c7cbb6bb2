"""How many slots a pack offers: one over a base that trains one adapter at a time, and slots for whole trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from raylora.data.collate import Batch
from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.job.inputs import Inputs
from raylora.runtime.pack.width import pack_width
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.train.trainee import Trainee
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.pack_run import place_tiny
from tests.unit.train.tiny_run import save_materials, tiny_spec, write_chats


def job_of(spec: RunSpec, num_slots: int, **fields: Any) -> PackJob:
    desk = cast("Any", None)  # it is not asked
    return PackJob(
        0,
        "key",
        num_slots,
        spec,
        "store",
        Fence("store", 1, "s1"),
        desk,
        report_steps=1,
        slots_stay_on_ranks=False,
        **fields,
    )


@pytest.mark.parametrize("calibrates", [True, False])
def test_a_base_with_padded_lines_offers_one_slot(tmp_path: Path, calibrates: bool):
    torch.manual_seed(0)
    shape = {"vocab_size": len(small_tokenizer()), "hidden_size": 32, "n_layer": 2, "n_head": 4}
    BloomForCausalLM(BloomConfig(**shape)).save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    spec = tiny_spec(tmp_path / "base", write_chats(tmp_path / "rows.jsonl", 20))
    job, trainee = job_of(spec, 8, calibrates=calibrates), place_tiny(spec)
    assert pack_width(job, trainee, None) == 1  # nor are there rows to try widths with
    assert not trainee.steppers


def test_what_is_measured_is_offered_in_whole_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    trainee = place_tiny(spec)
    assert pack_width(job_of(spec, 6, calibrates=True, repeats=3), trainee, Inputs.open(spec)) in (3, 6)
    assert not trainee.steppers
    assert pack_width(job_of(spec, 6, calibrates=True, repeats=3), trainee, None) == 6
    # Runs that may not bin there are refused one by one; the pack is there for those that do not.
    mixing, binned = replace(trainee, why_not_binned="mixes rows"), spec.model_copy(update={"sample_packing": True})
    assert pack_width(job_of(binned, 2, calibrates=True, likely=(binned,)), mixing, Inputs.open(binned)) in (1, 2)


@pytest.mark.parametrize("ranks", [(), (2, 16)], ids=["nothing is known", "two runs are likely"])
def test_widths_are_tried_with_the_runs_that_are_likely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, ...]
):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    seen: dict[int, list[float]] = {}

    def step_s(trainee: Trainee, batch: Batch, width: int) -> float:
        seen[width] = [trainee.bank.kind(slot)[0] for slot in range(width)]
        return 0.1

    monkeypatch.setattr("raylora.train.calibrate._step_s", step_s)
    likely = tuple(spec.model_copy(update={"lora_r": rank}) for rank in ranks)
    pack_width(job_of(spec, 2, calibrates=True, likely=likely), place_tiny(spec), Inputs.open(spec))
    assert seen[2] == list(ranks or (spec.lora_r, spec.lora_r))
