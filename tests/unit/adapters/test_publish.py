"""A combined adapter as a folder: PEFT and raylora read what was combined, lineage goes on, nothing is left halfway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raylora.adapters.combining.combine import combine
from raylora.adapters.combining.fit import fitting_layers
from raylora.adapters.combining.publish import as_adapter, check_free, lineage_of, publish_at
from raylora.adapters.combining.recipe import Recipe
from raylora.adapters.delta import Layers
from raylora.adapters.layers import deltas
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.adapters.trained_over import holding_of
from raylora.errors import InputError, StoreError
from raylora.model.adapter.slot import Slot
from tests.unit.adapters.published_adapters import (
    DIGEST,
    assert_same_updates,
    in_peft,
    lora_layers,
    peft_updates,
    save_adapter,
)

CAT = Recipe("cat", (1.0, 0.5))
EVERY_Q, ONE_Q = ("q_proj", "v_proj"), ("model.layers.0.self_attn.q_proj", "down_proj")


def parents_in(folder: Path, first: Sequence[str] = EVERY_Q, second: Sequence[str] = ONE_Q) -> list[StoredAdapter]:
    slots = Slot(6, 12, 0.0, 1), Slot(4, 3, 0.0, 2)
    pairs = zip((first, second), slots, strict=True)
    uris = [save_adapter(folder / name, *each) for name, each in zip("ab", pairs, strict=True)]
    return [read_adapter(uri) for uri in uris]


def published(parents: Sequence[StoredAdapter], folder: Path, recipe: Recipe = CAT) -> tuple[Layers, str]:
    layers = combine(fitting_layers(parents, recipe.method), recipe)
    return layers, publish_at(str(folder), as_adapter(layers, parents), lineage_of(parents, recipe, None))


@pytest.mark.parametrize("recipe", [CAT, Recipe("svd", (1.0, 1.0), max_rank=5), Recipe("svd", (1.0, 1.0))])
def test_peft_and_raylora_read_what_was_combined(tmp_path: Path, recipe: Recipe):
    layers, uri = published(parents_in(tmp_path), tmp_path / "out", recipe)
    expected = {module: delta.update() for module, delta in layers.items()}
    model = in_peft(uri)
    assert_same_updates(peft_updates(model, "p0"), expected)
    assert {layer.scaling["p0"] for layer in lora_layers(model).values()} == {1.0}
    again = deltas(read_adapter(uri))
    assert_same_updates({module: delta.update() for module, delta in again.items()}, expected)
    assert {delta.scale for delta in again.values()} == {1.0}


def test_layers_of_another_rank_are_in_the_patterns(tmp_path: Path):
    _, uri = published(parents_in(tmp_path), tmp_path / "out")
    config = json.loads(Path(uri, "adapter_config.json").read_text())
    others = {r"^model\.layers\.1\.self_attn\.q_proj": 6, "v_proj": 6, "down_proj": 4}
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (10, 10, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == others
    assert config["base_model_name_or_path"] == "tiny/llama"
    assert config["target_modules"] == ["down_proj", "model.layers.0.self_attn.q_proj", "q_proj", "v_proj"]


def test_layers_of_one_rank_need_no_pattern(tmp_path: Path):
    _, uri = published(parents_in(tmp_path, EVERY_Q, EVERY_Q), tmp_path / "out")
    config = json.loads(Path(uri, "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (10, ["q_proj", "v_proj"])
    assert "rank_pattern" not in config and "alpha_pattern" not in config


@pytest.mark.parametrize("field", [{"target_modules": r".*\.(q|v)_proj"}, {"layers_to_transform": 0}])
def test_targets_that_are_no_mere_names_become_dotted_ones(tmp_path: Path, field: dict[str, object]):
    first, second = parents_in(tmp_path)
    other = StoredAdapter(first.uri, first.tensors, {**first.config, **field}, first.about)
    layers, uri = published([other, second], tmp_path / "out")
    assert json.loads(Path(uri, "adapter_config.json").read_text())["target_modules"] == sorted(layers)
    assert peft_updates(in_peft(uri), "p0").keys() == layers.keys()


def test_lineage_goes_on(tmp_path: Path):
    parents = parents_in(tmp_path)
    _, uri = published(parents, tmp_path / "out")
    about = read_adapter(uri).about
    assert about["base_digest"] == DIGEST
    assert (about["base_model"], about["method"], about["weights"]) == ("tiny/llama", "cat", [1.0, 0.5])
    assert [each["run_id"] for each in about["combined_from"]] == ["run-a", "run-b"]
    manifests = [json.loads(Path(parent.uri, "manifest.json").read_text()) for parent in parents]
    digests = [manifest["files"]["adapter_model.safetensors"]["sha256"] for manifest in manifests]
    assert [each["digest"] for each in about["combined_from"]] == digests
    assert str(tmp_path) not in Path(uri, "manifest.json").read_text()
    layers, other = published([read_adapter(uri), parents[0]], tmp_path / "again", Recipe("cat", (1.0, -1.0)))
    assert read_adapter(other).about["combined_from"][0] == {"run_id": None, "digest": read_adapter(uri).digest}
    assert layers.keys() == deltas(read_adapter(uri)).keys()


def test_what_the_method_used_is_in_the_lineage(tmp_path: Path):
    parents = parents_in(tmp_path)
    assert lineage_of(parents, CAT, None)["density"] is None
    assert lineage_of(parents, Recipe("ties", (1.0, 1.0)), None)["density"] == 0.5
    told = lineage_of(parents, Recipe("dare_ties", (1.0, 1.0), 0.3, seed=7), [{"adapter": "base"}])
    assert (told["density"], told["seed"], told["evaluation"]) == (0.3, 7, [{"adapter": "base"}])


def test_a_place_that_is_taken_is_refused_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full" / "sub").mkdir(parents=True)
    (tmp_path / "full" / "sub" / "file").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(InputError, match=r"--out .* something is there already\. Allowed: a new folder"):
            check_free(str(tmp_path / name))
    with pytest.raises(StoreError):
        check_free(str(tmp_path / "file" / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "file", "full", "sub"]


def test_a_free_place_stays_free_until_it_is_written(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new" / "out", f"{tmp_path}/slash/"):
        check_free(str(place))
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
    published(parents_in(tmp_path / "parents"), tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == [
        ".writer",
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_a_place_that_was_taken_meanwhile_stays_its_winners(tmp_path: Path):
    parents = parents_in(tmp_path / "parents")
    place = tmp_path / "out"
    check_free(str(place))
    place.mkdir()
    (place / "manifest.json").write_text("theirs")
    with pytest.raises(InputError, match="something is there already"):
        published(parents, place)
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("manifest.json", "theirs")]


def test_of_parents_without_a_manifest_nothing_is_said(tmp_path: Path):
    parents = [StoredAdapter(each.uri, each.tensors, each.config, {}) for each in parents_in(tmp_path)]
    told = lineage_of(parents, CAT, None)
    assert "quantization" not in told and "tokenizer_digest" not in told
    _, uri = published(parents, tmp_path / "out")
    assert holding_of({"combined": read_adapter(uri)}) == "none"
    older = StoredAdapter(uri, {}, {}, {"quantization": None})
    assert holding_of({"older": older, "other": StoredAdapter(uri, {}, {}, {"quantization": "int8"})}) == "int8"


@pytest.mark.parametrize("word", ["out/../out/.", "file://{}/with%20space"])
def test_a_place_may_be_spelled_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str):
    monkeypatch.chdir(tmp_path)
    parents = parents_in(tmp_path / "parents")
    uri = word.format(tmp_path)
    layers = combine(fitting_layers(parents, CAT.method), CAT)
    path = publish_at(uri, as_adapter(layers, parents), lineage_of(parents, CAT, None))
    assert path == str(tmp_path / ("with space" if "space" in word else "out"))
    assert read_adapter(uri).tensors.keys() == read_adapter(path).tensors.keys()


def test_the_home_folder_and_the_working_folder_can_be_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, uri = published(parents_in(tmp_path / "parents"), tmp_path / "out")
    monkeypatch.chdir(uri)
    monkeypatch.setenv("HOME", uri)
    wanted = read_adapter(uri).digest
    assert [read_adapter(word).digest for word in (".", "~", "../out", "~/")] == [wanted] * 4


def test_what_fails_halfway_leaves_nothing(tmp_path: Path):
    parents = parents_in(tmp_path / "parents")
    adapter = as_adapter(combine(fitting_layers(parents, "cat"), CAT), parents)
    with pytest.raises(TypeError):
        publish_at(str(tmp_path / "out"), adapter, {"no JSON": object()})  # met when the files are written
    assert [path.name for path in tmp_path.iterdir()] == ["parents"]


def test_tensors_are_written_as_they_were_combined(tmp_path: Path):
    layers, uri = published(parents_in(tmp_path), tmp_path / "out")
    tensors = load_file(Path(uri, "adapter_model.safetensors"))
    assert len(tensors) == 2 * len(layers)
    for module, delta in layers.items():
        assert torch.equal(tensors[f"base_model.model.{module}.lora_A.weight"], delta.a_RI)
        assert torch.equal(tensors[f"base_model.model.{module}.lora_B.weight"], delta.b_OR)
