"""A run that trains its base: resumed bit for bit, begun anew from the files, refused where its values break."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest
import torch

from raylora.adapters import publish_model as publishing
from raylora.adapters.publish_model import publish_model
from raylora.errors import InputError, ModelError, RunFailedError, UnusableStoreError
from raylora.model.base.meta import read_config
from raylora.model.base.weights import Weights
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.train import steppers
from raylora.train.build import steps_in_low_precision
from raylora.train.integrity import checksum
from raylora.train.prediction.estimate import estimate
from raylora.train.prediction.forecast import forecast
from tests.contract.strategy_specs import STRATEGIES
from tests.servers.lacking import needs
from tests.unit.store.disks import mounted
from tests.unit.train.solo_run import spec_of, start
from tests.unit.train.tiny_run import CPU, build_tiny, open_rows, run_steps, save_materials

FULL = {"adapter": "full", "learning_rate": 2e-3}
GALORE = {**FULL, "optimizer": "galore_adamw", "galore_rank": 8, "galore_update_proj_gap": 2}
needs_galore = needs("galore_torch")
KINDS = [
    FULL,
    {**FULL, "gradient_checkpointing": True, "sample_packing": True, "gradient_accumulation_steps": 2},
    {**FULL, "optimizer": "adamw_bnb_8bit"},
    pytest.param(GALORE, marks=needs_galore),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("full"), 60)


@pytest.mark.parametrize("fields", KINDS, ids=["plain", "recomputed-binned", "8-bit", "galore"])
def test_resumed_is_uninterrupted_bit_for_bit(home: Path, tmp_path: Path, fields: dict[str, object]):
    """With GaLore the run is cut between two projections."""
    spec = spec_of(home, **fields)
    whole, _, end = start(spec, home, tmp_path / "whole")
    first, _, _ = start(spec, home, tmp_path / "cut", stop_after=3)
    checkpoint = load_latest(open_store(str(tmp_path / "cut")))
    second, _, resumed_end = start(spec, home, tmp_path / "cut", checkpoint=checkpoint)
    losses = first.values("step", "train_loss") + second.values("step", "train_loss")
    assert losses == whole.values("step", "train_loss")
    assert losses[-1] < losses[0]
    assert second.values("eval", "eval_loss")[-1] == whole.values("eval", "eval_loss")[-1]
    for name, tensor in end.bank.export(0).tensors.items():
        assert torch.equal(resumed_end.bank.export(0).tensors[name], tensor), name


def test_micro_batches_change_nothing_but_the_order_of_sums(home: Path):
    results = []
    for micro_batch_size, accumulation in ((4, 1), (1, 4)):
        spec = spec_of(home, **FULL, micro_batch_size=micro_batch_size, gradient_accumulation_steps=accumulation)
        rows, _ = open_rows(spec, home / "cache")
        results.append(run_steps(build_tiny(spec), rows, range(4), 2e-3))
    at_once, one_by_one = results
    assert [each.loss for each in one_by_one] == pytest.approx([each.loss for each in at_once], abs=1e-5)
    assert [each.grad_norm for each in one_by_one] == pytest.approx([each.grad_norm for each in at_once], rel=1e-4)


def test_the_next_run_begins_with_the_weights_of_the_files(home: Path):
    spec = spec_of(home, **FULL)
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    first = [result.loss for result in run_steps(trainee, rows, range(3))]
    trainee.release(0)
    trainee.admit(0, spec)
    files = Weights(home / "base")
    assert all(torch.equal(weight, files.read(name)) for name, weight in trainee.bank.parameters(0).items())
    assert [result.loss for result in run_steps(trainee, rows, range(3))] == first


def test_it_is_alone(home: Path):
    trainee = build_tiny(spec_of(home, **FULL))
    with pytest.raises(ModelError, match="adapter: full trains the base itself"):
        trainee.admit(1, spec_of(home, **FULL))
    assert list(trainee.steppers) == [0]


def test_nothing_is_frozen_and_all_counts_as_base(home: Path):
    spec = spec_of(home, **FULL)
    trainee = build_tiny(spec)
    assert checksum(trainee) == []
    assert trainee.held_base_bytes == 4 * trainee.num_trainable(0)
    predicted = estimate(spec, read_config(home / "base"), "cpu")
    assert predicted.trainable_parameters == predicted.base_parameters == trainee.num_trainable(0)


def test_low_precision_is_warned_of(home: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "raylora"):
        build_tiny(spec_of(home, **FULL, dtype="bfloat16"))
    assert "weights and moments in torch.bfloat16 alone" in caplog.text
    caplog.clear()
    build_tiny(spec_of(home, **FULL))
    assert "bfloat16" not in caplog.text


def test_an_engine_that_steps_a_float32_copy_is_not_warned_of(home: Path):
    by_strategy = {
        name: steps_in_low_precision(spec_of(home, **FULL, distributed=place), torch.bfloat16)
        for name, place in STRATEGIES.items()
        if name != "zero3"
    }
    assert by_strategy == {"ddp": True, "fsdp": True, "zero1": False, "zero2": False}


def test_a_weight_that_is_not_finite_is_not_kept(home: Path, tmp_path: Path):
    trainee = build_tiny(spec_of(home, **FULL))
    with torch.no_grad():
        trainee.bank.parameters(0)["model.norm.weight"][0] = torch.nan
    with pytest.raises(RunFailedError, match=r"model.norm.weight has values that are not finite; it was not kept"):
        publish_model(open_store(str(tmp_path)), trainee, home / "base", {})
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_disk_without_room_for_the_model_is_told_as_such(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where it is laid out; the store has room."""
    trainee = build_tiny(spec_of(home, **FULL))
    with mounted(tmp_path / "disk", 1 << 16) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(UnusableStoreError, match=r"the model could not be written .*TMPDIR, then resume"):
            publish_model(open_store(str(tmp_path / "store")), trainee, home / "base", {})
    assert not list((tmp_path / "store").rglob("*"))


def test_a_large_model_is_written_file_by_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(publishing, "MAX_SHARD_BYTES", 100_000)
    trainee = build_tiny(spec_of(home, **FULL))
    uri = publish_model(open_store(str(tmp_path)), trainee, home / "base", {})
    files = sorted(Path(uri).glob("model-*.safetensors"))
    assert len(files) > 2
    written = Weights(Path(uri))
    assert all(torch.equal(weight, written.read(name)) for name, weight in trainee.bank.parameters(0).items())


def test_a_library_that_is_not_there_is_told_of(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steppers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'raylora\[galore\]'"):
        build_tiny(spec_of(home, **GALORE))


def test_its_steps_are_forecast(home: Path):
    config = read_config(home / "base")
    all_weights, adapter = (forecast(spec_of(home, **fields), config, 1, 16, CPU) for fields in (FULL, {}))
    assert min(all_weights.forward_s, all_weights.backward_s, all_weights.update_s) > 0
    assert adapter.update_s > 0
