"""VeRA as PEFT saves it, its random matrices beside it or made again: what is done with it computes what PEFT does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.combining.combine import combine
from raylora.adapters.combining.fit import fitting_layers
from raylora.adapters.combining.recipe import Recipe
from raylora.adapters.layers import deltas
from raylora.adapters.merging.check import wanted_logits
from raylora.adapters.merging.plan import EXACT
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.stored import read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options
from raylora.errors import ModelError
from tests.unit.adapters.made_adapters import (
    IDS,
    TARGETS,
    assert_answers_as_trained,
    assert_merged,
    load_model,
    merge,
    save_adapter,
)
from tests.unit.adapters.peft_saved import said_by_peft
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_base, save_materials, tiny_spec

CHATS = [[{"role": "user", "content": text}] for text in ("the model reads a question", "Sum of 1 2 3")]
SAVED = "base_model.vera_A"

pytestmark = pytest.mark.filterwarnings("ignore:Specified to not")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and one adapter twice: ``saved`` with its random matrices, ``made`` with their key; never written to."""
    folder = tmp_path_factory.mktemp("vera")
    base = save_base(folder / "base")
    for name, save_projection in (("saved", True), ("made", False)):
        torch.manual_seed(1)
        fields: dict[str, Any] = {"r": 12, "projection_prng_key": 3, "target_modules": TARGETS}
        config = VeraConfig(**fields, save_projection=save_projection, task_type="CAUSAL_LM")
        model = get_peft_model(load_model(base), config)
        for parameter in (each for each in model.parameters() if each.requires_grad):
            parameter.data.normal_(std=0.5)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture(params=["saved", "made"])
def folder(home: Path, request: pytest.FixtureRequest) -> Path:
    return home / str(request.param)


def test_updates_are_pefts(home: Path, folder: Path):
    stored = read_adapter(str(folder))
    assert (SAVED in stored.tensors) == (folder.name == "saved")
    found = deltas(stored)
    model = PeftModel.from_pretrained(load_model(home / "base"), folder).base_model.model
    assert len(found) == 9 and list(found) == sorted(found)
    for module, delta in found.items():
        wanted = model.get_submodule(module).get_delta_weight("default").detach()
        assert wanted.abs().max() > 1e-2
        torch.testing.assert_close(delta.update(), wanted, rtol=1e-5, atol=1e-5)


def test_it_is_merged(home: Path, folder: Path, tmp_path: Path):
    base, stored = home / "base", read_adapter(str(folder))
    merge(folder, base, tmp_path / "out")
    assert_merged(tmp_path / "out", base, folder)
    agreement = wanted_logits(deltas(stored), base).compare(tmp_path / "out")
    agreement.check(EXACT)
    assert agreement.argmax_agrees


def test_a_run_of_our_own_is_merged(tmp_path: Path):
    home = save_materials(tmp_path / "home", 40)
    fields = {"adapter": "vera", "lora_r": 12, "lora_target_modules": TARGETS, "d_initial": 1.0}
    trainee = build_tiny(tiny_spec(home / "base", home / "rows.jsonl", **fields))
    rows, _ = open_rows(trainee.spec, home / "cache")
    run_steps(trainee, rows, range(3), rate=0.1)
    assert_answers_as_trained(trainee, home / "base", tmp_path)


def test_it_answers_as_with_peft(home: Path, folder: Path):
    base = find_base(BasePlace(str(home / "base")), home / "cache")
    session = open_session(base, {"vera": read_adapter(str(folder))}, {"dtype": "float32"})
    for chat in CHATS:
        said = session.answer("vera", chat, Options(max_new_tokens=12))
        assert said.text == said_by_peft(home / "base", folder, chat, 12)
        assert said != session.answer(None, chat, Options(max_new_tokens=12))


@pytest.mark.parametrize(("word", "kind"), [("vllm", "LORA"), ("lorax", "LORA"), ("peft", "VERA")])
def test_it_is_exported_as_lora_where_a_server_knows_no_other(
    home: Path, folder: Path, tmp_path: Path, word: str, kind: str
):
    asked = Asked(word, tmp_path / "out", base_name="tiny/llama", place=BasePlace(str(home / "base")))
    written = export_adapter(read_adapter(str(folder)), asked)
    assert json.loads((written.path / "adapter_config.json").read_text())["peft_type"] == kind
    assert any("VERA goes out as LoRA of rank 12" in told for told in written.warnings) == (kind == "LORA")
    wanted, found = (PeftModel.from_pretrained(load_model(home / "base"), each) for each in (folder, written.path))
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, wanted(IDS).logits, rtol=1e-4, atol=1e-4)


def test_it_is_combined_with_lora(home: Path, folder: Path, tmp_path: Path):
    base = home / "base"
    parents = [read_adapter(str(each)) for each in (folder, save_adapter(base, tmp_path / "lora"))]
    layers = fitting_layers(parents, "cat")
    found = combine(layers, Recipe("cat", (0.5, 2.0)))
    for module, delta in found.items():
        wanted = 0.5 * layers[0][module].update() + 2 * layers[1][module].update()
        torch.testing.assert_close(delta.update(), wanted, rtol=1e-4, atol=1e-5)


def test_without_its_base_it_has_no_matrices(home: Path, tmp_path: Path):
    lost = changed(home / "made", tmp_path / "a", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="say where it is with --base"):
        deltas(read_adapter(str(lost)))
    found = deltas(read_adapter(str(lost)), BasePlace(str(home / "base")))
    assert found.keys() == deltas(read_adapter(str(home / "made"))).keys()


def test_a_base_with_other_layers_is_refused(home: Path, tmp_path: Path):
    for fields in ({"num_hidden_layers": 2}, {"hidden_size": 32}):
        base = save_base(tmp_path / str(fields), **fields)
        with pytest.raises(ModelError, match=r"does not fit its base, which has no linear layer for \d of its 9"):
            deltas(read_adapter(str(home / "made")), BasePlace(str(base)))


def changed(folder: Path, copy: Path, **fields: object) -> Path:
    """An adapter whose config says something else."""
    shutil.copytree(folder, copy)
    file = copy / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return copy


@pytest.mark.parametrize("change", [lambda tensor: None, lambda tensor: tensor[:, :50], lambda tensor: tensor[:4]])
def test_random_matrices_that_are_missing_or_too_small_are_told(
    home: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor | None]
):
    shutil.copytree(home / "saved", tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    smaller = change(tensors.pop(SAVED).clone())
    save_file({**tensors, **({} if smaller is None else {SAVED: smaller.contiguous()})}, file)
    with pytest.raises(ModelError, match="says save_projection: true, and its random matrices"):
        deltas(read_adapter(str(tmp_path / "a")))


def test_numbers_that_are_none_are_told_at_once(home: Path, tmp_path: Path):
    odd = changed(home / "made", tmp_path / "a", r="12", projection_prng_key=-1, bias="all")
    with pytest.raises(ModelError) as refused:
        deltas(read_adapter(str(odd)))
    for problem in ("r: got '12'; allowed: a whole", "projection_prng_key: got -1", "has bias 'all'"):
        assert problem in str(refused.value)


def test_a_vector_that_is_missing_is_told(home: Path, tmp_path: Path):
    shutil.copytree(home / "made", tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.1.self_attn.v_proj.vera_lambda_d"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"lacks a matrix, .* at model\.layers\.1\.self_attn\.v_proj"):
        deltas(read_adapter(str(tmp_path / "a")))
