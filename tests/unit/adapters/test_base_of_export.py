"""What is made after the layers of a base is made after the adapter's own: another one is refused, nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import VeraConfig, get_peft_model

from raylora.adapters.base import BasePlace, check_place
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.source.digest import base_digest
from tests.unit.adapters.exported_adapters import adapted, base_of, published, stored
from tests.unit.model.tiny import save_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Make = Callable[[Path, Path, Path], StoredAdapter]
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases of one shape, `own` and `other`; never written to."""
    folder = tmp_path_factory.mktemp("bases")
    for seed, name in enumerate(("own", "other")):
        save_tiny(folder / name, seed=seed)
    return folder


def lora(home: Path, store: Path, cache: Path) -> StoredAdapter:
    return published(adapted(home / "own"), store, {"base_digest": base_digest(home / "own", cache)})


def vera(home: Path, store: Path, cache: Path) -> StoredAdapter:
    torch.manual_seed(1)
    config = VeraConfig(r=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base_of(home / "own"), config)
    return published(model, store, {"adapter": "vera", "base_digest": base_digest(home / "own", cache)})


@pytest.mark.parametrize(("word", "make"), [("gguf", lora), ("gguf", vera), ("vllm", vera)])
def test_a_base_that_counts_is_the_adapters_own(home: Path, tmp_path: Path, word: str, make: Make):
    cache = tmp_path / "cache"
    adapter = make(home, tmp_path / "store", cache)
    other = Asked(word, tmp_path / "out", place=BasePlace(str(home / "other")), cache=cache)
    with pytest.raises(ModelError, match=r"was trained on another base than other: .*with --base"):
        export_adapter(adapter, other)
    assert not (tmp_path / "out").exists()
    export_adapter(adapter, Asked(word, tmp_path / "out", place=BasePlace(str(home / "own")), cache=cache))
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(("word", "make"), [("vllm", lora), ("peft", lora), ("peft", vera)])
def test_a_base_that_does_not_count_is_not_looked_for(home: Path, tmp_path: Path, word: str, make: Make):
    adapter = make(home, tmp_path / "store", tmp_path / "cache")
    export_adapter(adapter, Asked(word, tmp_path / "out", place=BasePlace("/nowhere"), cache=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def of_the_hub(revision: str | None) -> StoredAdapter:
    plain = stored({"base_model_name_or_path": "owner/model", "revision": revision}, {Q: (32, 32, 4)})
    return StoredAdapter(plain.uri, plain.tensors, plain.config, {"base_digest": "0" * 64})


def test_of_a_commit_that_is_the_same_no_weights_are_fetched(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "hub" / "models--owner--model"
    folder = root / "snapshots" / COMMIT
    for path, content in ((root / "refs" / "main", COMMIT), (folder / "config.json", "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    for place in (None, BasePlace("owner/model"), BasePlace("owner/model", COMMIT)):
        check_place(of_the_hub(COMMIT), place, tmp_path / "cache")
    for file in (home / "own").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    branch, elsewhere = BasePlace("owner/model"), BasePlace(str(home / "other"))
    for revision, place in (("1" * 40, branch), (None, None), (COMMIT, elsewhere)):
        with pytest.raises(ModelError, match="was trained on another base than"):
            check_place(of_the_hub(revision), place, tmp_path / "cache")
