"""One base however many slots, growth per slot as predicted, and the straight line that spares the long dry runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, LlamaConfig, LlamaForCausalLM

from raylora.errors import ModelError
from raylora.model.base.meta import read_config
from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import Estimate, estimate, estimate_pack
from raylora.train.prediction.pack_memory import PackMemory
from tests.unit.train.measured_pack import WIDTHS

REPOSITORY = Path(__file__).parents[3]
CONFIG = LlamaConfig(
    hidden_size=192, intermediate_size=520, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3,
    vocab_size=2047, tie_word_embeddings=True,
)  # fmt: skip


def spec(**fields: Any) -> RunSpec:
    common = {"base_model": "base", "datasets": [{"path": "rows"}], "sequence_len": 64, "dtype": "float32"}
    return RunSpec.model_validate(common | fields)


def predict(specs: Sequence[RunSpec]) -> Estimate:
    return estimate_pack(specs, CONFIG, device="cpu")


def test_a_pack_of_one_is_a_run_alone() -> None:
    run = spec(load_in_4bit=True, micro_batch_size=3, lora_dropout=0.1)
    assert predict([run]) == estimate(run, CONFIG, device="cpu")


def test_slots_of_all_kinds_add_up_and_the_base_is_there_once() -> None:
    runs = [spec(lora_r=4), spec(lora_r=32, lora_target_modules=["q_proj"]), spec(micro_batch_size=3, lora_dropout=0.2)]
    alone, together = [predict([run]).ranks[0] for run in runs], predict(runs).ranks[0]
    assert {together.base_bytes} == {each.base_bytes for each in alone}
    for part in ("adapters_bytes", "gradients_bytes", "optimizer_bytes"):
        assert getattr(together, part) == sum(getattr(each, part) for each in alone)
    assert together.activations_bytes > max(each.activations_bytes for each in alone)


def test_the_line_meets_what_a_dry_run_counts() -> None:
    memory = PackMemory(spec(), predict)
    counted = predict([spec()] * 11)
    drawn, rank = memory.at(11).ranks[0], counted.ranks[0]
    assert (drawn.base_bytes, drawn.adapters_bytes) == (rank.base_bytes, rank.adapters_bytes)
    assert drawn.peak_bytes == pytest.approx(rank.peak_bytes, rel=0.01)
    assert memory.at(11).trainable_parameters == counted.trainable_parameters


@pytest.mark.slow
def test_adapters_of_vera_that_share_no_random_matrices_each_hold_theirs() -> None:
    runs = [spec(adapter="vera", lora_r=64, projection_prng_key=key) for key in (0, 1, 2)]
    pair = 4 * 64 * (520 + 520)
    shared, unlike = PackMemory(runs[0], predict), PackMemory(runs[0], predict, num_projections=3)
    for num_slots, further in ((1, 0), (2, 1), (3, 2), (8, 2)):
        for part in ("adapters_bytes", "step_peak_bytes", "between_peak_bytes"):
            alike, found = (getattr(memory.at(num_slots).ranks[0], part) for memory in (shared, unlike))
            assert found - alike == further * pair
    assert unlike.at(3).ranks[0].adapters_bytes == predict(runs).ranks[0].adapters_bytes
    assert PackMemory(spec(), predict, num_projections=3).at(2) == PackMemory(spec(), predict).at(2)


def test_evas_start_takes_of_one_slot_however_many_there_are() -> None:
    run = spec(init_lora_weights="eva", lora_r=64, sequence_len=8)
    one, many = (PackMemory(run, predict).at(num_slots).ranks[0] for num_slots in (1, 12))
    slot = PackMemory(run, predict).slot.num_bytes
    assert one.between_peak_bytes > one.step_peak_bytes
    assert many.between_peak_bytes - one.between_peak_bytes == pytest.approx(11 * slot, rel=0.1)


def test_the_most_slots_that_fit() -> None:
    memory = PackMemory(spec(), predict)
    for wanted in (1, 3, 8, 20):
        room = memory.at(wanted).peak_bytes
        assert memory.most_slots(partial(Estimate.fits, device_bytes=room), 32) == wanted
        assert memory.most_slots(partial(Estimate.fits, device_bytes=room - 1), 32) == wanted - 1
    assert memory.most_slots(partial(Estimate.fits, device_bytes=memory.at(20).peak_bytes), 5) == 5


def test_a_base_that_takes_one_adapters_rows_at_a_time_holds_no_pack() -> None:
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=64)
    run = spec(lora_target_modules=["query_key_value"])
    estimate_pack([run], config, device="cpu")
    with pytest.raises(ModelError, match="train each run alone"):
        estimate_pack([run, run], config, device="cpu")


PACKS: dict[str, dict[str, Any]] = {"plain": {}, "nf4": {"load_in_4bit": True, "lora_dropout": 0.1}}
Held = dict[int, dict[str, int]]


def of_pack(name: str) -> RunSpec:
    return spec(micro_batch_size=2, lora_r=16, **PACKS[name])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def held(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Held]:
    """The bytes that a process held in each pack, by its width."""
    place = tmp_path_factory.mktemp("held")
    for name in PACKS:
        (place / f"{name}.spec.json").write_text(of_pack(name).model_dump_json())
    command = [sys.executable, "-m", "tests.unit.train.measured_pack", str(base), str(place)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: {int(width): found for width, found in json.loads((place / f"{name}.json").read_text()).items()}
        for name in PACKS
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKS)
def test_predicted_is_measured_for_1_4_and_8_slots(base: Path, held: dict[str, Held], name: str) -> None:
    found, config = held[name], read_config(base)
    memory = PackMemory(of_pack(name), lambda specs: estimate_pack(specs, config, device="cpu"))
    for width in WIDTHS:
        rank = memory.at(width).ranks[0]
        assert found[width]["base_bytes"] == rank.base_bytes == memory.at(1).ranks[0].base_bytes
        measured = found[width]["resident_bytes"] + found[width]["step_peak_bytes"]
        assert rank.peak_bytes == pytest.approx(measured, rel=0.1)
    for fewer, more in pairwise(WIDTHS):
        grown = (found[more]["resident_bytes"] - found[fewer]["resident_bytes"]) / (more - fewer)
        assert grown == pytest.approx(memory.slot.num_bytes, rel=0.05)
