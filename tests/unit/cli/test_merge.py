"""The command `merge`: what it writes and tells, and what it refuses before it writes anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.model.export import publish_adapter
from raylora.model.source.digest import base_digest
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import new_run, run_store, update_run, write_run
from tests.unit.adapters.made_adapters import (
    IDS,
    TARGETS,
    assert_merged,
    load_model,
    publish_again,
    save_adapter,
    tensors_of,
)
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells
from tests.unit.data.small_tokenizer import PLAIN
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec


@pytest.fixture(scope="module")
def made(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of PEFT's over the materials' base; never written to."""
    return save_adapter(materials / "base", tmp_path_factory.mktemp("made") / "adapter")


def test_a_merged_folder_is_a_model_like_base_and_adapter(
    raylora: Raylora, materials: Path, made: Path, tmp_path: Path
):
    base, out = materials / "base", tmp_path / "out"
    told = raylora("merge", made, "--out", out, "--json")
    assert told.code == 0, told.err
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(load_model(base), made)(IDS).logits
        torch.testing.assert_close(load_model(out)(IDS).logits, wanted, rtol=0, atol=1e-5)
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    size = (out / "model.safetensors").stat().st_size
    found = told.json
    assert (found["path"], found["dtype"], found["files"]) == (str(out), "float32", ["model.safetensors"])
    assert (found["bytes"], found["num_layers"], found["quantization"]) == (size, 9, None)
    assert (found["rounding_error"], found["argmax_agrees"]) == (None, True)
    assert found["max_logit_difference"] < 1e-4


def test_a_run_is_merged_by_its_name(raylora: Raylora, materials: Path, made: Path, tmp_path: Path):
    base, store = materials / "base", open_store(default_store_uri())
    run_id = write_run(store, new_run(RunSpec(base_model=str(base), datasets=[{"path": "rows"}]))).run_id
    about = {"base_digest": base_digest(base, tmp_path / "cache"), "quantization": "nf4-double"}
    uri = publish_again(made, run_store(store, run_id), **about)
    update_run(store, run_id, status="finished", result={"adapter_uri": uri})
    told = raylora("merge", run_id, "--out", tmp_path / "out", "--dtype", "bfloat16", "--json")
    assert told.code == 0, told.err
    assert (told.json["adapter"], told.json["dtype"], told.json["quantization"]) == (uri, "bfloat16", "nf4-double")
    error = told.json["rounding_error"]
    assert 0.05 < error["mean"] <= error["max"] < 0.2
    assert told.json["max_logit_difference"] > 1e-4
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_merged_run_has_its_own_chat_template(raylora: Raylora, materials: Path, made: Path, tmp_path: Path):
    base, store = materials / "base", open_store(default_store_uri())
    spec = RunSpec(base_model=str(base), datasets=[{"path": "rows"}], chat_template=PLAIN)
    run_id = write_run(store, new_run(spec)).run_id
    uri = publish_again(made, run_store(store, run_id), base_digest=base_digest(base, tmp_path / "cache"))
    update_run(store, run_id, status="finished", result={"adapter_uri": uri})
    told = raylora("merge", run_id, "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["chat_template"]) == (0, "run"), told.err
    assert load_tokenizer(tmp_path / "out").chat_template == PLAIN
    told = raylora("merge", uri, "--base", base, "--out", tmp_path / "plain", "--json")
    assert (told.code, told.json["chat_template"]) == (0, "base"), told.err


def test_what_quantization_took_is_not_merged_twice(raylora: Raylora, materials: Path, made: Path, tmp_path: Path):
    about = {"base_digest": base_digest(materials / "base", tmp_path / "cache"), "quantization": "nf4"}
    uri = publish_again(made, open_store(str(tmp_path / "store")), **about, init_lora_weights="loftq")
    words = ("merge", uri, "--base", materials / "base")
    told = raylora(*words, "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["merged_into"], told.json["rounding_error"]) == (0, "nf4", None), told.err
    assert told.json["max_logit_difference"] < 1e-4
    rows = {row[0]: " ".join(row[1:]) for row in cells(raylora(*words, "--out", tmp_path / "other").out) if row}
    assert "the base as nf4 rounds it" in rows["merged into"]


def test_what_a_person_is_told(raylora: Raylora, materials: Path, made: Path, tmp_path: Path):
    about = {"base_digest": base_digest(materials / "base", tmp_path / "cache"), "quantization": "nf4"}
    uri = publish_again(made, open_store(str(tmp_path / "store")), **about)
    out = tmp_path / "out"
    words = ("merge", uri, "--base", materials / "base", "--requantize", "nf4", "--max-shard-gb", "0.0001")
    told = raylora(*words, "--out", out)
    assert told.code == 0, told.err
    rows = {row[0]: " ".join(row[1:]) for row in cells(told.out) if row}
    num_files = len(list(out.glob("*.safetensors")))
    assert num_files > 1
    assert rows["adapted layers"] == "9"
    assert rows["trained on"] == "nf4"
    assert f"in {num_files} files" in rows["written"]
    assert "% on average" in rows["its rounding error"]
    assert "of the merged weight, in full size" in rows["rounded to nf4"]
    assert "rounded off" in rows["beside the update"]
    assert "likeliest token" in rows["logits"]
    assert f"merged model: {out}" in told.out.splitlines()


def test_help_says_that_requantized_files_are_no_smaller(raylora: Raylora):
    told = raylora("merge", "--help")
    assert told.code == 0
    words = " ".join(told.out.replace("│", " ").split())
    assert "The files stay as large as without it" in words
    assert "with it they are rounded again" in words


def test_without_the_check_nothing_is_said_of_logits(raylora: Raylora, made: Path, tmp_path: Path):
    told = raylora("merge", made, "--out", tmp_path / "out", "--no-check", "--json")
    assert (told.code, told.json["max_logit_difference"], told.json["argmax_agrees"]) == (0, None, None)


def test_no_code_and_no_pickle_is_copied(raylora: Raylora, materials: Path, made: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(materials / "base", base)
    for name in ("modeling_x.py", "pytorch_model.bin", "notes.txt", "training_args.bin"):
        (base / name).write_text("x")
    told = raylora("merge", made, "--base", base, "--out", tmp_path / "out", "--no-check", "--json")
    assert told.code == 0, told.err
    found, wanted = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "out", materials / "base"))
    assert found == wanted


def copied(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder)
    return folder


def of_another_base(made: Path, folder: Path) -> str:
    return publish_again(made, open_store(str(folder)), base_digest="0" * 64, quantization="none")


def pickled(made: Path, folder: Path) -> str:
    (copied(made, folder) / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return str(folder)


def of_another_kind(made: Path, folder: Path) -> str:
    config = copied(made, folder) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "LOHA"}))
    return str(folder)


def with_another_base(made: Path, folder: Path) -> str:
    """Its base has fewer layers than it was trained on."""
    config = copied(made, folder) / "adapter_config.json"
    base = save_base(folder / "base", num_hidden_layers=2)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    return str(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_another_base, ["was trained on another base", "000000000000", "--base"]),
        (pickled, ["adapter_model.bin", "reading a pickle can run code"]),
        (of_another_kind, ["is LOHA", "tensors that its type trains"]),
        (with_another_base, ["3 problems", "model.layers.2.mlp.down_proj has no tensor", "Nothing was written"]),
    ],
)
def test_an_adapter_that_cannot_be_merged_leaves_nothing_behind(
    raylora: Raylora, made: Path, tmp_path: Path, make: Callable[[Path, Path], str], words: list[str]
):
    told = raylora("merge", make(made, tmp_path / "adapter"), "--out", tmp_path / "deep" / "out", "--json")
    assert told.code == 2, told.err
    message = told.json["error"]["message"]
    assert all(word in message for word in words), message
    assert not (tmp_path / "deep").exists()


def test_a_folder_with_something_in_it_is_left_alone(raylora: Raylora, made: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    told = raylora("merge", made, "--out", tmp_path / "out", "--json")
    assert told.code == 2
    assert "something is there already" in told.json["error"]["message"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
def test_files_of_no_size(raylora: Raylora, made: Path, tmp_path: Path, size: str):
    told = raylora("merge", made, "--out", tmp_path / "out", "--max-shard-gb", size, "--json")
    assert told.code == 2, told.err
    assert f"--max-shard-gb: got {size}; allowed: above 0" in told.json["error"]["message"]


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_written(raylora: Raylora, made: Path, tmp_path: Path):
    folder = copied(made, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    odd = {"base_model_name_or_path": str(tmp_path / "gone"), "lora_alpha": 0, "bias": "all"}
    (folder / "adapter_config.json").write_text(json.dumps(config | odd))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    told = raylora("merge", folder, "--out", tmp_path / "out", "--max-shard-gb", "0", "--json")
    assert told.code == 2
    message = told.json["error"]["message"]
    for problem in (
        "--max-shard-gb: got 0",
        "something is there already",
        "say where it is with --base",
        "lora_alpha: got 0, with which it adds nothing",
        "has bias 'all'",
    ):
        assert problem in message, problem
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    message = raylora("merge", "nowhere", "--out", tmp_path / "out", "--json").json["error"]["message"]
    assert "something is there already" in message and "nowhere has no adapter_config.json" in message


def test_vera_is_merged_into_its_base(raylora: Raylora, materials: Path, tmp_path: Path):
    base = materials / "base"
    fields = {"adapter": "vera", "lora_r": 12, "lora_target_modules": TARGETS}
    trainee = build_tiny(tiny_spec(base, materials / "rows.jsonl", **fields))
    torch.manual_seed(1)
    for parameter in trainee.bank.parameters(0).values():
        torch.nn.init.normal_(parameter, std=0.5)
    about = {"base_digest": base_digest(base, tmp_path / "cache"), "quantization": "none"}
    uri = publish_adapter(open_store(str(tmp_path / "store")), trainee.bank.export(0), about)
    words = ("merge", uri, "--base", base, "--out", tmp_path / "out", "--json")
    told = raylora(*words)
    assert told.code == 0, told.err
    assert "Specified to not" not in told.err
    assert (told.json["num_layers"], told.json["argmax_agrees"]) == (9, True)
    assert told.json["max_logit_difference"] < 1e-3
    assert_merged(tmp_path / "out", base, uri)
