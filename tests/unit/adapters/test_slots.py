"""A stored adapter comes to one rank and one scale, and computes what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from raylora.adapters.layers import deltas
from raylora.adapters.slots import check_seat, seat_of
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.errors import ModelError
from raylora.model.adapter.peft_format import MAGNITUDE, tensor_name
from raylora.model.base.meta import meta_model, read_config
from tests.unit.adapters.made_adapters import PATTERNS
from tests.unit.adapters.peft_saved import save_peft
from tests.unit.train.tiny_run import save_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("slots") / "base")


def stored(base: Path, folder: Path, **fields: Any) -> StoredAdapter:
    return read_adapter(str(save_peft(base, folder, **fields)))


def changed(folder: Path, **fields: Any) -> StoredAdapter:
    """An adapter whose config says something else."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return read_adapter(str(folder))


def test_one_rank_and_scale_are_taken_as_they_are(base: Path, tmp_path: Path):
    adapter = stored(base, tmp_path / "a", use_rslora=True)
    seat = seat_of(adapter)
    assert (seat.settings.r, seat.settings.dropout, seat.settings.use_dora) == (4, 0.0, False)
    assert seat.settings.scale == pytest.approx(8 / 2)
    assert seat.tensors.keys() == adapter.tensors.keys()
    for name, tensor in adapter.tensors.items():
        assert torch.equal(seat.tensors[name], tensor)


@pytest.mark.parametrize("use_dora", [False, True])
def test_several_ranks_and_scales_compute_the_same_updates(base: Path, tmp_path: Path, use_dora: bool):
    adapter = stored(base, tmp_path / "a", use_dora=use_dora, **PATTERNS)
    seat, found = seat_of(adapter), deltas(adapter)
    assert {delta.r for delta in found.values()} == {2, 4, 6}
    assert len({delta.scale for delta in found.values()}) > 1
    assert (seat.settings.r, seat.settings.use_dora) == (6, use_dora)
    assert seat.targets == tuple(found)
    for name, delta in found.items():
        a_RI, b_OR = (seat.tensors[tensor_name(name, matrix)] for matrix in ("lora_A", "lora_B"))
        assert a_RI.shape[0] == b_OR.shape[1] == 6
        torch.testing.assert_close(seat.settings.scale * b_OR @ a_RI, delta.update())
        assert (tensor_name(name, MAGNITUDE) in seat.tensors) is use_dora


def test_an_adapter_for_a_base_that_peft_changed_is_refused(base: Path, tmp_path: Path):
    stored(base, tmp_path / "a")
    with pytest.raises(ModelError, match=r"'pissa_niter_4', .*path_initial_model_for_weight_conversion"):
        seat_of(changed(tmp_path / "a", init_lora_weights="pissa_niter_4"))


def test_magnitudes_that_the_config_does_not_know_of_are_refused(base: Path, tmp_path: Path):
    stored(base, tmp_path / "a", use_dora=True)
    with pytest.raises(ModelError, match="says use_dora: false and has it otherwise at 9 of 9 layers"):
        seat_of(changed(tmp_path / "a", use_dora=False))


def test_a_layer_without_a_magnitude_is_refused(base: Path, tmp_path: Path):
    stored(base, tmp_path / "a", use_dora=True)
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors[next(name for name in tensors if MAGNITUDE in name)]
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ModelError, match="says use_dora: true and has it otherwise at 1 of 9 layers"):
        seat_of(read_adapter(str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"hidden_size": 32}, r"no linear layer for 9 of its 9, first .*down_proj \(64 x 96\)"),
        ({"num_hidden_layers": 2}, r"no linear layer for 3 of its 9, first model\.layers\.2\.mlp\.down_proj"),
    ],
)
def test_a_base_without_the_layers_is_refused(base: Path, tmp_path: Path, fields: dict[str, int], what: str):
    seat = seat_of(stored(base, tmp_path / "a"))
    check_seat(seat, meta_model(read_config(base), torch.float32))
    other = save_base(tmp_path / "other", **fields)
    with pytest.raises(ModelError, match=what):
        check_seat(seat, meta_model(read_config(other), torch.float32))


def test_the_output_head_takes_no_adapter(base: Path, tmp_path: Path):
    seat = seat_of(stored(base, tmp_path / "a", target_modules=["lm_head", "q_proj"]))
    with pytest.raises(ModelError, match="no linear layer for 1 of its 4, first lm_head"):
        check_seat(seat, meta_model(read_config(base), torch.float32))
