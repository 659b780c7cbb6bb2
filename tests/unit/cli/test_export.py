"""The command `export`: a run's adapter by its name, or a folder; what was written, or why nothing was."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel

from raylora.adapters.serving.servers import SERVERS
from raylora.model.export import publish_adapter
from raylora.model.source.source import resolve_base
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import new_run, run_store, update_run, write_run
from raylora.tracking.lineage import lineage
from raylora.train.build import build
from tests.unit.adapters.exported_adapters import all_bytes, base_of
from tests.unit.cli.conftest import Raylora
from tests.unit.train.tiny_run import CPU, save_base, tiny_spec

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"]


@pytest.fixture
def run_id(raylora: Raylora, materials: Path, tmp_path: Path) -> str:
    """A run over a base that is a folder of this machine; its adapter has random matrices."""
    spec = tiny_spec(materials / "base", materials / "rows.jsonl", lora_target_modules=["q_proj", "v_proj"])
    base = resolve_base(spec, tmp_path / "cache")
    bank = build(spec, base.path, (base.name, base.revision), CPU).bank
    torch.manual_seed(3)
    for parameter in bank.parameters(0).values():
        torch.nn.init.normal_(parameter)
    store = open_store(default_store_uri())
    record = write_run(store, new_run(spec))
    digests = {"base_digest": base.digest, "data_digest": "d" * 64, "tokenizer_digest": "e" * 64}
    names = {"base_name": base.name, "base_revision": base.revision}
    about = lineage(spec, run_id=record.run_id, dtype=spec.dtype, **names, **digests)
    uri = publish_adapter(run_store(store, record.run_id), bank.export(0), about | {"eval_loss": 1.5})
    update_run(store, record.run_id, status="finished", result={"adapter_uri": uri})
    return record.run_id


def test_a_runs_adapter_as_json(raylora: Raylora, materials: Path, tmp_path: Path, run_id: str):
    told = raylora("export", run_id, "--for", "vllm", "--out", tmp_path / "out", "--base-name", "org/base", "--json")
    assert told.code == 0, told.err
    assert told.json == {
        "path": str(tmp_path / "out"),
        "for": "vllm",
        "files": FILES,
        "r": 4,
        "rank_error": None,
        "base_model": "org/base",
        "warnings": [],
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    PeftModel.from_pretrained(base_of(materials / "base"), tmp_path / "out")


@pytest.mark.parametrize("word", SERVERS)
def test_an_adapter_that_was_trained_on_a_folder_of_this_machine_does_not_name_it(
    raylora: Raylora, materials: Path, tmp_path: Path, run_id: str, word: str
):
    told = raylora("export", run_id, "--for", word, "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.err
    assert told.json["base_model"] == "base"
    assert any("--base-name" in warning for warning in told.json["warnings"])
    written = all_bytes(tmp_path / "out")
    for place in (materials, tmp_path):
        assert str(place).encode() not in written


def test_a_persons_words_are_the_files_the_loss_and_on_the_side_the_warnings(
    raylora: Raylora, tmp_path: Path, run_id: str
):
    told = raylora("export", run_id, "--for", "sglang", "--out", tmp_path / "out", "--max-rank", "2")
    assert told.code == 0, told.err
    assert told.out.splitlines()[0].startswith("lost by rank 2, ||D - D_r|| / ||D|| of each layer: mean ")
    assert told.out.splitlines()[1:] == [str(tmp_path / "out" / name) for name in FILES]
    assert "warning: base 'base' is no hub id" in told.err


def test_a_folder_needs_its_base_said_where_its_config_counts(
    raylora: Raylora, materials: Path, tmp_path: Path, run_id: str
):
    folder = Path(default_store_uri()) / "runs" / run_id / "adapter"
    words = ("export", folder, "--for", "gguf", "--out", tmp_path / "out", "--base", materials / "base", "--json")
    told = raylora(*words)
    assert (told.code, told.json["files"]) == (0, ["README.md", "adapter.gguf"]), told.err
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    assert len(reader.tensors) == 2 * 2 * 3


def test_a_base_that_is_named_and_is_another_is_refused_whether_it_counts_or_not(
    raylora: Raylora, materials: Path, tmp_path: Path, run_id: str
):
    other = save_base(tmp_path / "other", initializer_range=0.2)
    for word in ("vllm", "gguf"):
        words = ("export", run_id, "--for", word, "--out", tmp_path / word, "--json", "--base")
        told = raylora(*words, other)
        assert told.code == 2
        assert "was trained on another base than other" in told.json["error"]["message"]
        assert not (tmp_path / word).exists()
        assert raylora(*words, materials / "base").code == 0


def test_what_is_refused_has_exit_code_2_and_leaves_nothing(raylora: Raylora, tmp_path: Path, run_id: str):
    told = raylora("export", run_id, "--for", "triton", "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["error"]["type"]) == (2, "InputError")
    assert "--for: got 'triton'; allowed: peft, vllm" in told.json["error"]["message"]
    wrong = ("--max-rank", "0", "--base-name", "/a/b")
    told = raylora("export", run_id, "--for", "vllm", "--out", tmp_path / "out", *wrong)
    assert told.code == 2
    assert "--max-rank: got 0" in told.err and "--base-name: got '/a/b'" in told.err
    assert not (tmp_path / "out").exists()


def test_words_and_an_adapter_that_are_wrong_are_told_at_once(raylora: Raylora, tmp_path: Path):
    words = ("--for", "triton", "--max-rank", "0", "--base-name", "/a/b", "--out", tmp_path / "out")
    told = raylora("export", tmp_path / "gone", *words, "--json")
    assert told.code == 2
    problems = ("--for: got 'triton'", "--max-rank: got 0", "--base-name: got '/a/b'", "has no adapter_config.json")
    for problem in problems:
        assert problem in told.json["error"]["message"], problem
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_is_not_there(raylora: Raylora, tmp_path: Path):
    told = raylora("export", tmp_path / "gone", "--for", "vllm", "--out", tmp_path / "out", "--json")
    assert told.code == 2
    assert "has no adapter_config.json" in told.json["error"]["message"]


def test_help_names_every_server(raylora: Raylora):
    told = raylora("export", "--help")
    assert told.code == 0
    assert all(word in told.out for word in SERVERS)
