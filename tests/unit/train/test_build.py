"""What a run is told while it is built: its dtype, what a CPU cannot do, and that a shard is a shard."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from raylora.errors import ModelError
from raylora.model.base import dtype
from raylora.spec.run import RunSpec
from raylora.strategy.choose import offloads
from raylora.strategy.ddp import Ddp
from raylora.train.build import _check_share, build
from raylora.train.optim import AdamWFactory, state_bytes
from raylora.train.start_parts import LOADING
from tests.unit.train.tiny_run import BASE_NAME, build_tiny, open_rows, run_steps, save_base, tiny_spec, write_chats

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "base"
    save_base(folder)
    return folder


def spec_of(base: Path, **fields: object) -> RunSpec:
    return tiny_spec(base, base / "rows.jsonl", **fields)


@pytest.mark.parametrize(("has_units", "computes_in"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_cpu_without_bfloat16_units_computes_in_float32_and_says_so(
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_units: bool,
    computes_in: torch.dtype,
):
    monkeypatch.setattr(dtype, "cpu_has_bf16", lambda: has_units)
    with caplog.at_level(logging.INFO, "raylora"):
        trainee = build_tiny(spec_of(base, dtype="auto"))
    assert trainee.model.dtype is computes_in
    assert ("dtype: float32, because this cpu has no bfloat16 units" in caplog.text) is not has_units


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "paged_adamw_32bit"])
def test_an_optimizer_that_cannot_page_here_says_what_runs_instead(
    base: Path, caplog: pytest.LogCaptureFixture, optimizer: str
):
    made = AdamWFactory(spec_of(base, optimizer=optimizer), CPU)([torch.nn.Parameter(torch.zeros(2, 2))])
    assert type(made) is torch.optim.AdamW
    assert f"optimizer: {optimizer} pages its state on a CUDA device" in caplog.text


def test_moments_in_8_bits_need_no_gpu(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    losses, chats = dict[str, list[float]](), write_chats(tmp_path / "rows.jsonl", 30)
    for optimizer in ("adamw_torch", "adamw_bnb_8bit"):
        spec = tiny_spec(base, chats, optimizer=optimizer)
        trainee, (rows, _) = build_tiny(spec), open_rows(spec, tmp_path / "cache")
        losses[optimizer] = [result.loss for result in run_steps(trainee, rows, range(6))]
    assert "torch's AdamW runs instead" not in caplog.text
    assert losses["adamw_bnb_8bit"] == pytest.approx(losses["adamw_torch"], abs=0.02)
    assert losses["adamw_bnb_8bit"] != losses["adamw_torch"]
    moments = {name: each for name, each in trainee.steppers[0].state() if name != "step"}
    assert {each.dtype for name, each in moments.items() if name.startswith("state")} == {torch.uint8}
    kept = state_bytes(spec, trainee.num_trainable(0), "cpu")
    assert kept == sum(each.nbytes for each in moments.values()) < 0.5 * 8 * trainee.num_trainable(0)


def test_offloading_on_a_cpu_says_that_nothing_moves(base: Path, caplog: pytest.LogCaptureFixture):
    place = {"strategy": "deepspeed", "zero_stage": 1, "num_workers": 2, "cpu_offload": True}
    assert not offloads(spec_of(base, distributed=place), CPU)
    assert "distributed.cpu_offload: this is a cpu" in caplog.text


@pytest.mark.parametrize("quantizes", [True, False])
def test_the_parts_of_a_load_are_told(base: Path, quantizes: bool):
    told: dict[str, float] = {}
    build(spec_of(base, load_in_4bit=quantizes), base, BASE_NAME, CPU, told.__setitem__)
    assert list(told) == ["describe", *LOADING]
    assert min(told["load"], told["place"]) > 0
    assert (told["quantize"] > 0) is quantizes


class Careless(Ddp):
    """Says that it shards, and leaves the whole base on every rank."""

    name, shards_base = "careless", True


class TwoRanks:
    rank, world_size = 0, 2

    def gather(self, value: int) -> list[int]:
        return [value, value]


def test_a_base_that_was_to_be_sharded_and_is_not_is_refused(base: Path):
    trainee = dataclasses.replace(build_tiny(spec_of(base)), strategy=Careless(), ranks=TwoRanks())  # type: ignore[arg-type]
    trainee.frozen[0].data = torch.zeros(2**20)  # beyond the megabyte that is let pass
    with pytest.raises(ModelError, match=r"strategy: careless left \d+ bytes of the base on a rank, allowed are"):
        _check_share(trainee)
