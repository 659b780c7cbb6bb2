"""The base digest tells tensors apart and nothing else; it is remembered until a file changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.errors import ModelError, UnusableStoreError
from raylora.model.source.digest import base_digest, file_digest
from tests.unit.model.tiny import save_tiny
from tests.unit.store.disks import close, fill, mounted


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4).to(torch.bfloat16), "empty": torch.zeros(0)}


def digest_of(folder: Path, held: dict[str, torch.Tensor], **metadata: str) -> str:
    folder.mkdir()
    save_file(held, folder / "model.safetensors", metadata=metadata or None)
    return base_digest(folder, folder / "cache")


def test_shards_and_metadata_do_not_count(tmp_path: Path) -> None:
    save_tiny(tmp_path / "whole")
    save_tiny(tmp_path / "cut", max_shard_size="10KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    whole = base_digest(tmp_path / "whole", tmp_path / "cache")
    assert base_digest(tmp_path / "cut", tmp_path / "cache") == whole
    held = load_file(tmp_path / "whole" / "model.safetensors")
    assert digest_of(tmp_path / "turned", dict(reversed(held.items())), note="other") == whole


def test_a_file_beside_the_index_does_not_count(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", max_shard_size="10KB")
    before = base_digest(tmp_path / "base", tmp_path / "cache")
    save_file(tensors(), tmp_path / "base" / "consolidated.safetensors")
    assert base_digest(tmp_path / "base", tmp_path / "cache") == before


def test_name_dtype_shape_and_every_byte_count(tmp_path: Path) -> None:
    one_bit = tensors()
    one_bit["a"][1, 2] = torch.nextafter(one_bit["a"][1, 2], torch.tensor(9.0))
    renamed = tensors()
    renamed["c"] = renamed.pop("b")
    variants = [
        tensors(),
        one_bit,
        renamed,
        tensors() | {"a": tensors()["a"].view(3, 2)},
        tensors() | {"b": tensors()["b"].view(torch.float16)},
        {name: tensor for name, tensor in tensors().items() if name != "empty"},
    ]
    digests = {digest_of(tmp_path / str(i), held) for i, held in enumerate(variants)}
    assert len(digests) == len(variants)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    first = digest_of(tmp_path / "base", tensors())
    file = tmp_path / "base" / "model.safetensors"
    [note] = (tmp_path / "base" / "cache" / "digests").iterdir()
    note.write_text("remembered")
    assert base_digest(tmp_path / "base", tmp_path / "base" / "cache") == "remembered"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert base_digest(tmp_path / "base", tmp_path / "base" / "cache") == first


@pytest.mark.parametrize("shut", [fill, close])
def test_a_disk_that_takes_no_note_is_told_as_such(tmp_path: Path, shut: Callable[[Path], None]) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    with mounted(tmp_path / "disk", 1 << 16) as disk:
        shut(disk)
        with pytest.raises(UnusableStoreError, match=r"^cache: .* cannot be written .* RAYLORA_HOME"):
            file_digest(tmp_path / "abc", disk)


def test_a_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's own example.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc", tmp_path / "cache") == expected


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    save_tiny(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"no safetensors file|ends early"):
        base_digest(tmp_path / "base", tmp_path / "cache")


def test_a_header_that_is_no_header_is_refused(tmp_path: Path) -> None:
    for header in (b"[]", json.dumps({"a": {"dtype": "F32"}}).encode(), b"\xff\xff"):
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ModelError, match="no safetensors file"):
            base_digest(tmp_path, tmp_path / "cache")
