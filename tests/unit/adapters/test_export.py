"""An exported adapter computes what the stored one computes, names no place of this machine, and is whole or absent."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from peft import PeftModel

from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.serving.servers import SERVERS
from raylora.adapters.stored import StoredAdapter
from raylora.errors import InputError
from tests.unit.adapters.exported_adapters import (
    ABOUT,
    BASE_NAME,
    PATTERNS,
    adapted,
    all_bytes,
    base_of,
    logits,
    published,
    saved,
    stored,
    updates_of,
)
from tests.unit.model.tiny import save_tiny

FOLDERS = [word for word in SERVERS if word != "gguf"]
ONE_RANK = [word for word in FOLDERS if word != "peft"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": PATTERNS,
    "rslora with patterns": {**PATTERNS, "use_rslora": True},
}
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_tiny(folder)
    return folder


def folder_of(word: str, out: Path) -> Path:
    return out / str(ABOUT["run_id"]) if word == "ray-serve" else out


def config_in(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize("word", FOLDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_pefts_loader_computes_the_same_from_an_export(base: Path, tmp_path: Path, word: str, kind: str):
    model = adapted(base, **KINDS[kind])
    written = export_adapter(published(model, tmp_path / "store"), Asked(word, tmp_path / "out"))
    loaded = PeftModel.from_pretrained(base_of(base), folder_of(word, tmp_path / "out"))
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=2e-5)
    assert not torch.allclose(logits(model), logits(base_of(base)), atol=1e-2)
    assert (written.base_model, written.rank_error) == (BASE_NAME, None)


@pytest.mark.parametrize("word", ONE_RANK)
@pytest.mark.parametrize("kind", KINDS)
def test_servers_are_given_one_rank_one_plain_alpha_and_last_names(base: Path, tmp_path: Path, word: str, kind: str):
    written = export_adapter(published(adapted(base, **KINDS[kind]), tmp_path / "s"), Asked(word, tmp_path / "out"))
    config = config_in(folder_of(word, tmp_path / "out"))
    r = 6 if "patterns" in kind else 4
    assert (written.r, config["r"], config["use_rslora"], config["use_dora"]) == (r, r, False, False)
    assert config["target_modules"] == ["down_proj", "k_proj", "q_proj"]
    assert not config.get("rank_pattern") and not config.get("alpha_pattern")
    tensors = safetensors.torch.load_file(folder_of(word, tmp_path / "out") / "adapter_model.safetensors")
    assert {tensor.shape[0 if "lora_A" in name else 1] for name, tensor in tensors.items()} == {r}
    assert any("padded with zeros to 6" in warning for warning in written.warnings) == ("patterns" in kind)


def test_dora_goes_to_peft_as_it_is(base: Path, tmp_path: Path):
    model = adapted(base, use_dora=True)
    export_adapter(published(model, tmp_path / "store"), Asked("peft", tmp_path / "out"))
    loaded = PeftModel.from_pretrained(base_of(base), tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=2e-5)


@pytest.mark.parametrize("word", ["vllm", "peft"])
def test_a_smaller_rank_is_told_with_what_it_loses(base: Path, tmp_path: Path, word: str):
    model = adapted(base, **PATTERNS)
    written = export_adapter(published(model, tmp_path / "s"), Asked(word, tmp_path / "out", max_rank=3))
    loaded = PeftModel.from_pretrained(base_of(base), tmp_path / "out")
    found, errors = updates_of(loaded), []
    for name, whole_OI in updates_of(model).items():
        u, sizes, vh = torch.linalg.svd(whole_OI.double(), full_matrices=False)
        wanted_OI = (u[:, :3] * sizes[:3]) @ vh[:3]
        torch.testing.assert_close(found[name].double(), wanted_OI, rtol=0, atol=1e-5)
        errors.append(float(torch.linalg.norm(whole_OI - wanted_OI) / torch.linalg.norm(whole_OI)))
    assert written.r == config_in(tmp_path / "out")["r"] == 3
    assert written.rank_error is not None
    assert written.rank_error["max"] == pytest.approx(max(errors), abs=1e-5)
    assert written.rank_error["mean"] == pytest.approx(sum(errors) / len(errors), abs=1e-5)


@pytest.mark.parametrize("word", ["vllm", "peft"])
def test_a_largest_rank_that_is_not_reached_changes_no_bit(base: Path, tmp_path: Path, word: str):
    adapter = published(adapted(base), tmp_path / "store", dtype=torch.bfloat16)
    written = export_adapter(adapter, Asked(word, tmp_path / "out", max_rank=4))
    tensors = safetensors.torch.load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in adapter.tensors.items())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert written.rank_error == {"mean": 0.0, "max": 0.0}


@pytest.mark.parametrize("word", FOLDERS)
def test_the_card_has_lineage_that_programs_read_and_a_command_that_people_copy(base: Path, tmp_path: Path, word: str):
    written = export_adapter(published(adapted(base), tmp_path / "store"), Asked(word, tmp_path / "out"))
    home = folder_of(word, tmp_path / "out")
    _, front, body = (home / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert (matter["base_model"], matter["library_name"]) == (BASE_NAME, "peft")
    assert {"lora", "raylora"} <= set(matter["tags"])
    names = ("base_digest", "quantization", "data_digest", "seed", "spec_digest", "run_id", "eval_loss", "raylora")
    assert {name: matter["raylora"][name] for name in names} == {name: ABOUT[name] for name in names}
    command = {
        "peft": "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('tiny/llama'), './out')",
        "vllm": "vllm serve tiny/llama --enable-lora --max-lora-rank 8 --lora-modules adapter=./out\n",
        "sglang": "--max-lora-rank 4 --lora-paths adapter=./out\n",
        "lorax": '"parameters": {"adapter_id": "/data/out", "adapter_source": "local"}',
        "ray-serve": '"dynamic_lora_loading_path": "s3://BUCKET/loras"',
    }
    assert command[word] in body
    assert f"| validation loss | `{ABOUT['eval_loss']}` |" in body
    assert sorted(written.files) == sorted(str(path.relative_to(tmp_path / "out")) for path in home.iterdir())


def test_ray_serve_gets_a_folder_of_folders_named_by_the_run(base: Path, tmp_path: Path):
    written = export_adapter(published(adapted(base), tmp_path / "store"), Asked("ray-serve", tmp_path / "loras"))
    names = ("README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json")
    assert list(written.files) == [f"{ABOUT['run_id']}/{name}" for name in names]
    body = (tmp_path / "loras" / written.files[0]).read_text()
    assert f'Requests name the model "{BASE_NAME}:{ABOUT["run_id"]}"' in body
    assert '"max_lora_rank": 8' in body


@pytest.mark.parametrize("run_id", ["../../elsewhere", "/elsewhere", "..", ""])
def test_a_run_whose_name_is_no_name_of_a_folder_does_not_name_one(tmp_path: Path, run_id: str):
    plain = stored({}, {Q: (8, 8, 4)})
    adapter = StoredAdapter(plain.uri, plain.tensors, plain.config, {"run_id": run_id})
    written = export_adapter(adapter, Asked("ray-serve", tmp_path / "deep" / "loras"))
    assert {Path(file).parts[0] for file in written.files} == {"loras"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_what_an_adapter_belongs_to_beside_its_base_is_told(tmp_path: Path):
    plain = stored({}, {Q: (8, 8, 4)})
    about = {"init_lora_weights": "loftq", "quantization": "nf4"}
    adapter = StoredAdapter(plain.uri, plain.tensors, plain.config, about)
    told = export_adapter(adapter, Asked("vllm", tmp_path / "out", has_own_template=True)).warnings
    assert any("started as LoftQ and belongs to its base held as nf4" in warning for warning in told)
    assert any("a chat template of its own" in warning for warning in told)
    assert "| chat template | the run's own" in (tmp_path / "out" / "README.md").read_text()
    told = export_adapter(plain, Asked("vllm", tmp_path / "plain")).warnings
    assert not any("LoftQ" in warning or "template" in warning for warning in told)


@pytest.mark.parametrize("word", FOLDERS)
def test_no_file_names_a_place_of_this_machine(base: Path, tmp_path: Path, word: str):
    adapter = published(adapted(base), tmp_path / "store", base_name=str(base))
    with pytest.raises(InputError, match=r"base_model_name_or_path .* is no name that other machines.*--base-name"):
        export_adapter(adapter, Asked(word, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export_adapter(adapter, Asked(word, tmp_path / "out", base_name="org/model"))
    written = all_bytes(tmp_path / "out")
    for place in (base, tmp_path):
        assert str(place).encode() not in written
    assert config_in(folder_of(word, tmp_path / "out"))["base_model_name_or_path"] == "org/model"


def test_another_name_of_the_base_goes_without_the_revision_of_the_first(tmp_path: Path):
    adapter = stored({"revision": "a-commit"}, {Q: (8, 8, 4)})
    export_adapter(adapter, Asked("vllm", tmp_path / "as-it-is"))
    assert config_in(tmp_path / "as-it-is")["revision"] == "a-commit"
    assert "--revision a-commit " in (tmp_path / "as-it-is" / "README.md").read_text()
    export_adapter(adapter, Asked("vllm", tmp_path / "renamed", base_name="org/model"))
    assert config_in(tmp_path / "renamed")["revision"] is None
    assert b"a-commit" not in all_bytes(tmp_path / "renamed")


@pytest.mark.parametrize("word", FOLDERS)
def test_the_command_on_the_card_takes_the_base_at_its_commit(tmp_path: Path, word: str):
    adapter = stored({"revision": 'a-"commit"'}, {Q: (8, 8, 4)})
    written = export_adapter(adapter, Asked(word, tmp_path / "out"))
    card = next(file for file in written.files if file.endswith("README.md"))
    *_, code, _ = (tmp_path / "out" / card).read_text().split("```")
    _, _, program = code.partition("python - <<'END'\n") if word == "ray-serve" else code.partition("\n")
    if word in ("peft", "ray-serve"):
        nodes = ast.walk(ast.parse(program.removesuffix("END\n")))
        assert 'a-"commit"' in [node.value for node in nodes if isinstance(node, ast.Constant)]
    else:
        words = shlex.split(program.splitlines()[0])
        assert words[words.index("--revision") + 1] == 'a-"commit"'


def test_an_adapter_of_another_tool_has_a_card_without_lineage_and_says_so(base: Path, tmp_path: Path):
    written = export_adapter(saved(adapted(base), tmp_path), Asked("vllm", tmp_path / "out"))
    assert "raylora" not in yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert any("has no manifest" in warning for warning in written.warnings)


def test_a_bare_name_is_warned_of(base: Path, tmp_path: Path):
    adapter = published(adapted(base), tmp_path / "store", base_name="tiny")
    told = export_adapter(adapter, Asked("vllm", tmp_path / "out")).warnings
    assert any("'tiny' is no hub id" in warning and "--base-name" in warning for warning in told)
