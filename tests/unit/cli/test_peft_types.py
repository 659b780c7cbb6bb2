"""Adapters of PEFT's other types by command: they answer beside LoRA over one base, and are merged or refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from raylora.model.source.digest import base_digest
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import new_run, run_store, update_run, write_run
from tests.reference.peft_types import block_of
from tests.unit.adapters.made_adapters import IDS, by_peft, load_model, publish_again, tensors_of
from tests.unit.adapters.peft_published import publish_block
from tests.unit.adapters.peft_saved import said_by_peft, save_peft
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells

PROMPT = "the model reads"
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def home(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of several types over the materials' base; never written to."""
    folder = tmp_path_factory.mktemp("types")
    for kind in ("LOHA", "IA3", "BEFT"):
        publish_block(materials / "base", folder / kind, block_of(kind))
    save_peft(materials / "base", folder / "lora")
    return folder


def test_a_run_with_a_block_is_talked_to_and_merged_by_its_name(
    raylora: Raylora, materials: Path, home: Path, tmp_path: Path
):
    base, store, adapter = materials / "base", open_store(default_store_uri()), home / "LOHA" / "adapter"
    spec = RunSpec(base_model=str(base), datasets=[{"path": "rows"}], peft=block_of("LOHA"))
    run_id = write_run(store, new_run(spec)).run_id
    about = {"base_digest": base_digest(base, tmp_path / "cache"), "quantization": "nf4"}
    uri = publish_again(adapter, run_store(store, run_id), **about)
    update_run(store, run_id, status="finished", result={"adapter_uri": uri})
    words = ("generate", run_id, home / "lora", "--base", base, "--with-base", "--no-quantize", "--max-new-tokens", "8")
    told = raylora(*words, "--prompt", PROMPT, "--json")
    assert told.code == 0, told.err
    folders = {None: None, run_id: adapter, str(home / "lora"): home / "lora"}
    assert {each["adapter"]: each["text"] for each in told.json["answers"]} == {
        name: said_by_peft(base, folder, CHAT, 8) for name, folder in folders.items()
    }
    out = tmp_path / "out"
    told = raylora("merge", run_id, "--out", out, "--json")
    assert told.code == 0, told.err
    assert (told.json["num_layers"], told.json["quantization"], told.json["argmax_agrees"]) == (6, "nf4", True)
    assert told.json["max_logit_difference"] < 1e-4
    assert 0.05 < told.json["rounding_error"]["mean"] < 0.2
    wanted = by_peft(base, adapter)
    for name, tensor in tensors_of(out).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    with torch.no_grad():
        unmerged = PeftModel.from_pretrained(load_model(base), adapter).eval()(IDS).logits
        torch.testing.assert_close(load_model(out)(IDS).logits, unmerged, rtol=0, atol=1e-4)


def test_types_are_switched_while_a_conversation_goes_on(
    raylora: Raylora, materials: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    names = [str(home / "LOHA" / "adapter"), str(home / "lora"), str(home / "IA3" / "adapter")]
    asked = [names[0], names[1], None, names[2], names[0]]
    lines = [line for name in asked for line in ("/reset", f"/adapter {name}" if name else "/base", PROMPT)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    told = raylora("chat", *names, "--base", materials / "base", "--max-new-tokens", "8")
    assert told.code == 0, told.err
    said = [said_by_peft(materials / "base", None if name is None else Path(name), CHAT, 8) for name in asked]
    assert [line.strip() for line in told.out.splitlines()] == [line.strip() for line in "\n".join(said).splitlines()]
    assert told.err.count("held as none on") == 1


def test_what_merging_cannot_do_is_said_before_anything_is_written(
    raylora: Raylora, materials: Path, home: Path, tmp_path: Path
):
    words = ("merge", home / "BEFT" / "adapter", "--base", materials / "base", "--out", tmp_path / "deep" / "out")
    told = raylora(*words, "--json")
    assert told.code == 2
    assert "is BEFT, which PEFT cannot merge into" in told.json["error"]["message"]
    assert "Base layer has no bias" in told.json["error"]["message"]
    assert not (tmp_path / "deep").exists()


def test_what_a_person_is_told_of_a_merge(raylora: Raylora, materials: Path, home: Path, tmp_path: Path):
    told = raylora("merge", home / "IA3" / "adapter", "--base", materials / "base", "--out", tmp_path / "out")
    assert told.code == 0, told.err
    rows = {row[0]: " ".join(row[1:]) for row in cells(told.out) if row}
    assert rows["adapted layers"] == "9"
    assert "likeliest token the same" in rows["logits"]
