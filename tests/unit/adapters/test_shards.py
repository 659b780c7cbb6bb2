"""Weight files of bounded size: all tensors once, in their order, and an index that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raylora.adapters.shards import cut, write_shards
from tests.unit.adapters.made_adapters import IDS, load_model, merge, save_adapter, tensors_of
from tests.unit.train.tiny_run import save_base


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        ([5, 5], [["0", "1"]]),
        ([5, 6], [["0"], ["1"]]),
        ([11, 1, 9, 1], [["0"], ["1", "2"], ["3"]]),
        ([3, 30, 3], [["0"], ["1"], ["2"]]),
    ],
)
def test_a_file_holds_what_fits_and_a_larger_tensor_has_one_for_itself(sizes: list[int], shards: list[list[str]]):
    assert cut({str(number): size for number, size in enumerate(sizes)}, 10) == shards


def test_tensors_are_read_once_and_in_order(tmp_path: Path):
    seen: list[str] = []

    def read(name: str) -> torch.Tensor:
        seen.append(name)
        return torch.full((2,), float(name))

    files = write_shards(tmp_path, dict.fromkeys(("3", "1", "2"), 8), 16, read)
    assert seen == ["3", "1", "2"]
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert {name: float(tensor[0]) for name, tensor in tensors_of(tmp_path).items()} == {"3": 3.0, "1": 1.0, "2": 2.0}


def test_one_file_has_no_index(tmp_path: Path):
    assert write_shards(tmp_path, {"a": 4}, 10, lambda name: torch.ones(1)) == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_whoever_may_read_other_files_may_read_these(tmp_path: Path):
    (tmp_path / "other").write_text("")
    write_shards(tmp_path, {"a": 4}, 10, lambda name: torch.ones(1))
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_model_in_many_files_loads_as_one_in_a_single_file(tmp_path: Path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    whole = merge(adapter, base, tmp_path / "whole")
    many = merge(adapter, base, tmp_path / "many", max_shard_bytes=60_000)
    assert (len(whole.files), len(many.files)) == (1, len(list((tmp_path / "many").glob("*.safetensors"))))
    assert len(many.files) > 2
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    sizes = {}
    for file in many.files:
        held = load_file(tmp_path / "many" / file)
        sizes[file] = sum(tensor.nbytes for tensor in held.values())
        assert sizes[file] <= 60_000 or len(held) == 1
        assert {index["weight_map"][name] for name in held} == {file}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "many")(IDS).logits, load_model(tmp_path / "whole")(IDS).logits)
