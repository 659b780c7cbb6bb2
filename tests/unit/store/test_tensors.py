"""Files of safetensors that are whole, and hold what torch has no tensor for: whoever reads one is told what it is."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from raylora.adapters.stored import read_adapter
from raylora.errors import CorruptObjectError, ModelError
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.store.tensors import read_tensors

UNKNOWN = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8}
"""Bits of what safetensors' Rust reads and its Python does not."""


def file_of(dtype: str, shape: list[int], num_bits: int) -> bytes:
    num_bytes = 0 if 0 in shape else torch.Size(shape).numel() * num_bits // 8
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(num_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_what_torch_writes_is_read(dtype: torch.dtype):
    tensors = {"w": torch.ones(2, 3).to(dtype), "none": torch.empty(0, 2, dtype=dtype)}
    read = read_tensors(safetensors.torch.save(tensors))
    assert {name: (each.dtype, each.tolist()) for name, each in read.items()} == {
        name: (each.dtype, each.tolist()) for name, each in tensors.items()
    }


@pytest.mark.parametrize("dtype", UNKNOWN)
def test_a_dtype_that_torch_has_not_is_named(dtype: str):
    with pytest.raises(ValueError, match=f"^a tensor has the dtype {dtype}, of which torch makes none"):
        read_tensors(file_of(dtype, [8], UNKNOWN[dtype]))


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62]])
def test_a_shape_that_torch_has_not_is_refused(shape: list[int]):
    with pytest.raises(ValueError, match=r"^a tensor has a shape that torch makes none of$"):
        read_tensors(file_of("F32", shape, 32))


@pytest.mark.parametrize("dtype", UNKNOWN)
def test_an_adapter_of_such_a_dtype_is_refused(tmp_path: Path, dtype: str):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(file_of(dtype, [8], UNKNOWN[dtype]))
    with pytest.raises(CorruptObjectError, match=f"adapter_model.safetensors in .* cannot be read .*dtype {dtype}"):
        read_adapter(str(tmp_path))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_an_adapter_that_torch_cannot_reckon_with_is_refused(tmp_path: Path, dtype: str):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(file_of(dtype, [8], 8))
    with pytest.raises(ModelError, match=r"adapter: w in .* is of float8_e\dm\d\w*\. Allowed: float32, bfloat16"):
        read_adapter(str(tmp_path))


def test_a_checkpoint_of_such_a_dtype_is_corrupt(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = open_store(str(tmp_path))
    for step in (1, 2):
        save_checkpoint(store, Checkpoint(step, {"w": torch.ones(2)}, {}), keep=2)
    prefix, content = "checkpoints/step-00000002", file_of("F8_E8M0", [8], 8)
    store.write(f"{prefix}/state.safetensors", content)
    manifest = json.loads(store.read(f"{prefix}/manifest.json"))
    manifest["files"]["state.safetensors"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
    store.write(f"{prefix}/manifest.json", json.dumps(manifest).encode())
    found = load_latest(store)
    assert found is not None and found.step == 1
    assert "STEP 2 IS CORRUPT" in caplog.text and "dtype F8_E8M0" in caplog.text
