"""An exported adapter is known again: where it comes from, which base it belongs to, whether its files are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from raylora.adapters.base import BasePlace, open_base
from raylora.adapters.combining.combine import combine
from raylora.adapters.combining.fit import fitting_layers
from raylora.adapters.combining.publish import as_adapter, lineage_of, publish_at
from raylora.adapters.combining.recipe import Recipe
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.serving.servers import SERVERS
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.errors import CorruptObjectError, ModelError
from raylora.model.adapter.slot import Slot
from raylora.model.export import publish_adapter
from raylora.model.source.digest import base_digest
from raylora.store.blob import open_store
from raylora.store.signature import KEY_NAME
from tests.unit.adapters.exported_adapters import ABOUT, BASE_NAME, adapted, published, saved
from tests.unit.adapters.made_adapters import TARGETS, merge, tensors_of
from tests.unit.adapters.published_adapters import save_adapter
from tests.unit.model.tiny import save_tiny
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec

FOLDERS = [word for word in SERVERS if word != "gguf"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_tiny(folder)
    return folder


def exported(
    adapter: StoredAdapter, word: str, out: Path, max_rank: int | None = None, base_name: str | None = None
) -> Path:
    """The folder of the exported adapter itself."""
    written = export_adapter(adapter, Asked(word, out, max_rank, base_name))
    return (out / next(file for file in written.files if file.endswith("README.md"))).parent


@pytest.mark.parametrize("word", FOLDERS)
def test_an_export_says_where_it_comes_from_as_the_stored_adapter_does(base: Path, tmp_path: Path, word: str):
    folder = exported(published(adapted(base), tmp_path / "store"), word, tmp_path / "out")
    found = read_adapter(str(folder))
    assert found.about == ABOUT
    assert found.base_digest == ABOUT["base_digest"]
    again = read_adapter(str(exported(found, "peft", tmp_path / "again", base_name="org/model")))
    assert again.about == {**ABOUT, "base_model": "org/model"}


@pytest.mark.parametrize("word", ["vllm", "peft", "ray-serve"])
def test_an_exported_loftq_is_merged_into_what_it_belongs_to(tmp_path: Path, word: str):
    base = save_base(tmp_path / "base")
    fields = {"init_lora_weights": "loftq", "load_in_4bit": True, "lora_target_modules": TARGETS}
    trainee = build_tiny(tiny_spec(base, tmp_path / "rows.jsonl", **fields))
    about = {"init_lora_weights": "loftq", "quantization": "nf4-double"}
    uri = publish_adapter(open_store(str(tmp_path / "store")), trainee.bank.export(0), about)
    merge(uri, base, tmp_path / "merged")
    merge(exported(read_adapter(uri), word, tmp_path / "out"), base, tmp_path / "merged from the export")
    wanted = tensors_of(tmp_path / "merged")
    for name, tensor in tensors_of(tmp_path / "merged from the export").items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)


def test_an_export_of_an_adapter_of_another_base_is_refused_as_the_stored_one_is(base: Path, tmp_path: Path):
    save_tiny(tmp_path / "other", seed=1)
    about = {"base_digest": base_digest(base, tmp_path / "cache")}
    found = read_adapter(str(exported(published(adapted(base), tmp_path / "s", about), "vllm", tmp_path / "out")))
    assert open_base(found, BasePlace(str(base)), tmp_path / "cache").path == base
    with pytest.raises(ModelError, match="was trained on another base than other"):
        open_base(found, BasePlace(str(tmp_path / "other")), tmp_path / "cache")


def test_a_file_that_was_changed_is_found_and_a_card_is_its_readers(base: Path, tmp_path: Path):
    folder = exported(published(adapted(base), tmp_path / "store"), "vllm", tmp_path / "out")
    (folder / "README.md").write_text("ours")
    assert read_adapter(str(folder)).about == ABOUT
    config = folder / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(CorruptObjectError, match=r"adapter_config\.json is not what was written"):
        read_adapter(str(folder))


def test_with_a_key_an_export_is_signed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_NAME, "a key")
    folder = exported(published(adapted(base), tmp_path / "store"), "vllm", tmp_path / "out")
    assert read_adapter(str(folder)).about == ABOUT
    monkeypatch.setenv(KEY_NAME, "another key")
    with pytest.raises(CorruptObjectError, match="its signature is not of the key"):
        read_adapter(str(folder))


def test_what_smaller_ranks_lost_is_kept(base: Path, tmp_path: Path):
    adapter = published(adapted(base), tmp_path / "store")
    errors: list[object] = []
    for r in (4, 3, 2):
        written = export_adapter(adapter, Asked("vllm", tmp_path / str(r), max_rank=r))
        errors += [] if r == 4 else [written.rank_error]
        adapter = read_adapter(str(tmp_path / str(r)))
        assert adapter.about.get("rank_errors", []) == errors
    front = yaml.safe_load((tmp_path / "2" / "README.md").read_text().split("---\n")[1])
    assert front["raylora"]["rank_errors"] == errors[:1]


def test_of_an_unknown_origin_nothing_is_said(base: Path, tmp_path: Path):
    folder = exported(saved(adapted(base), tmp_path), "vllm", tmp_path / "out")
    assert not (folder / "manifest.json").exists()
    assert read_adapter(str(folder)).about == {}


@pytest.mark.parametrize("word", FOLDERS)
def test_the_card_of_a_combined_adapter_names_what_it_was_made_of(tmp_path: Path, word: str):
    slots, targets = (Slot(4, 8, 0.0, 1), Slot(4, 8, 0.0, 2)), ("q_proj", "v_proj")
    uris = [save_adapter(tmp_path / name, targets, slot) for name, slot in zip("ab", slots, strict=True)]
    parents = [read_adapter(uri) for uri in uris]
    unnamed = StoredAdapter(parents[1].uri, parents[1].tensors, parents[1].config, {}, parents[1].digest)
    recipe = Recipe("ties", (1.0, 0.5), 0.4)
    layers = combine(fitting_layers([parents[0], unnamed], "ties"), recipe)
    about = lineage_of([parents[0], unnamed], recipe, None)
    uri = publish_at(str(tmp_path / "both"), as_adapter(layers, parents), about)
    folder = exported(read_adapter(uri), word, tmp_path / "out")
    text = (folder / "README.md").read_text()
    digests = [parent.digest for parent in parents]
    assert f"| combined of | run `run-a`, SHA-256 `{digests[0]}`; SHA-256 `{digests[1]}` |" in text
    assert "| combined by | `ties` |\n| weights of those | `[1.0, 0.5]` |" in text
    front = yaml.safe_load(text.split("---\n")[1])["raylora"]
    assert front["combined_from"] == [{"run_id": "run-a", "digest": digests[0]}, {"run_id": None, "digest": digests[1]}]
    assert (front["method"], front["density"]) == ("ties", 0.4)


def test_a_manifest_that_says_anything_makes_a_card(tmp_path: Path, base: Path):
    odd = {"combined_from": "b", "rank_errors": {"a": 1}, "weights": 3, "method": ["x"]}
    folder = exported(published(adapted(base), tmp_path / "store", odd), "vllm", tmp_path / "out", max_rank=2)
    assert "| combined of | `b` |" in (folder / "README.md").read_text()
    assert len(read_adapter(str(folder)).about["rank_errors"]) == 1


def test_names_of_bases_are_those_of_the_config(base: Path, tmp_path: Path):
    folder = exported(published(adapted(base), tmp_path / "s"), "sglang", tmp_path / "out")
    config = json.loads((folder / "adapter_config.json").read_text())
    about = read_adapter(str(folder)).about
    assert config["base_model_name_or_path"] == about["base_model"] == BASE_NAME
