"""The command `combine`: losses are those of each adapter alone, and what cannot be is refused before it is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylora.adapters.layers import deltas
from raylora.adapters.stored import read_adapter
from raylora.cli.adapter import find_adapter
from raylora.model.adapter.adalora import pruned
from raylora.model.adapter.bank import Adapter
from raylora.model.export import publish_adapter
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import update_run
from raylora.store.sweeps import new_sweep, write_sweep
from raylora.train.evaluate import evaluate
from tests.cluster.alone import loss_alone
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.ended_runs import ATTENTION, ended
from tests.unit.cli.terminal import cells
from tests.unit.sweep.made_sweeps import sweep, trial
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, tiny_spec

ALL = "all-linear"


def loss_of_base(spec: RunSpec, cache: Path) -> float:
    """An adapter at its start adds nothing."""
    _, validation = open_rows(spec, cache)
    assert validation is not None
    return evaluate(build_tiny(spec), {0: validation})[0].loss


def test_each_adapter_is_evaluated_on_the_rows_of_each(raylora: Raylora, materials: Path, tmp_path: Path):
    first = ended(materials, lora_target_modules=ATTENTION, seed=1)
    packing = {"sample_packing": True, "sequence_len": 64, "distributed": {"strategy": "fsdp", "num_workers": 2}}
    second = ended(materials, lora_target_modules=ALL, lora_r=6, lora_alpha=3, seed=2, **packing)
    words = (first.run_id, second.run_id, "--method", "cat", "--weights", "1,0", "--out", tmp_path / "out")
    told = raylora("combine", *words, "--json")
    assert told.code == 0, told.err
    assert [each["adapter"] for each in told.json["evaluation"]] == ["combined", first.run_id, second.run_id, "base"]
    losses = {each["adapter"]: each["losses"] for each in told.json["evaluation"]}
    for run in (first, second):
        assert losses[run.run_id][run.run_id] == pytest.approx(loss_alone(run.spec, run.uri, tmp_path), rel=1e-5)
    assert losses["base"][first.run_id] == pytest.approx(loss_of_base(first.spec, tmp_path), rel=1e-5)
    assert losses["combined"] == pytest.approx(losses[first.run_id], rel=1e-5), "the second has no weight"
    assert abs(losses[second.run_id][first.run_id] - losses[first.run_id][first.run_id]) > 1e-3
    facts = {"path": str(tmp_path / "out"), "method": "cat", "r": 10, "num_layers": 21, "weights": [1.0, 0.0]}
    assert {name: told.json[name] for name in facts} == facts
    assert len(load_file(tmp_path / "out" / "adapter_model.safetensors")) == 42


def test_losses_for_a_person_and_rows_that_are_not_there(raylora: Raylora, materials: Path, tmp_path: Path):
    first = ended(materials, lora_target_modules=ATTENTION, seed=1, load_in_4bit=True)
    second = ended(materials, lora_target_modules=ATTENTION, seed=2, load_in_4bit=True, val_set_size=0)
    told = raylora("combine", first.run_id, second.run_id, "--method", "ties", "--out", tmp_path / "out")
    assert told.code == 0, told.err
    rows = {row[0]: row[1:] for row in cells(told.out) if len(row) > 2}
    assert rows["adapter"] == [first.run_id, second.run_id]
    loss, told_of_second = rows[first.run_id]
    assert float(loss) == pytest.approx(loss_alone(first.spec, first.uri, tmp_path), abs=1e-4)
    assert told_of_second == "no validation rows"
    assert rows.keys() == {"adapter", "combined", first.run_id, second.run_id, "base"}
    lines = told.out.splitlines()
    assert "2 adapters combined by ties: 6 layers, r=4" in lines
    assert f"adapter: {tmp_path / 'out'}" in lines


def test_without_any_validation_rows_there_are_no_losses(raylora: Raylora, materials: Path, tmp_path: Path):
    runs = [ended(materials, lora_target_modules=ATTENTION, seed=seed, val_set_size=0) for seed in (1, 2)]
    names = [run.run_id for run in runs]
    told = raylora("combine", *names, "--method", "svd", "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.err
    assert all(each["losses"] == dict.fromkeys(names) for each in told.json["evaluation"])


def test_adalora_and_vera_are_evaluated_as_each_alone(raylora: Raylora, materials: Path, tmp_path: Path):
    adalora = {"adapter": "adalora", "lora_r": 6, "target_r": 3}
    first = ended(materials, lora_target_modules=ATTENTION, seed=1, **adalora)
    second = ended(materials, lora_target_modules=ATTENTION, seed=2, adapter="vera", lora_r=12)
    whole = read_adapter(first.uri)
    shutil.copytree(first.uri, tmp_path / "whole")
    sides = {name: tuple(delta.update().shape) for name, delta in deltas(whole).items()}
    fewer = pruned(Adapter(without_ranks(whole.tensors), dict(whole.config), sides))
    save_file(without_ranks(whole.tensors), tmp_path / "whole" / "adapter_model.safetensors")
    uri = publish_adapter(open_store(str(tmp_path / "pruned")), fewer, whole.about)
    update_run(open_store(default_store_uri()), first.run_id, result={"adapter_uri": uri})
    words = (first.run_id, second.run_id, "--method", "cat", "--weights", "1,0", "--out", tmp_path / "out")
    told = raylora("combine", *words, "--json")
    assert told.code == 0, told.err
    losses = {each["adapter"]: each["losses"] for each in told.json["evaluation"]}
    wanted = loss_alone(first.spec, str(tmp_path / "whole"), tmp_path)
    of_vera = loss_alone(second.spec, second.uri, tmp_path)
    assert losses[first.run_id][first.run_id] == pytest.approx(wanted, rel=1e-5)
    assert losses[second.run_id][second.run_id] == pytest.approx(of_vera, rel=1e-5)
    assert losses["combined"] == pytest.approx(losses[first.run_id], rel=1e-5), "the second has no weight"
    assert abs(losses["base"][first.run_id] - wanted) > 1e-3


def without_ranks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdaLoRA's tensors with every other rank taken away, its place kept."""
    values = {name: tensor.clone() for name, tensor in tensors.items() if "lora_E" in name}
    for tensor in values.values():
        tensor[::2] = 0
    return {**tensors, **values}


def test_a_base_that_is_named_and_is_another_is_refused(raylora: Raylora, materials: Path, tmp_path: Path):
    vera = ended(materials, lora_target_modules=ATTENTION, adapter="vera", lora_r=12)
    lora = ended(materials, lora_target_modules=ATTENTION)
    other = save_base(tmp_path / "other", intermediate_size=128)
    words = ("combine", vera.uri, lora.uri, "--method", "cat", "--out", tmp_path / "out", "--json", "--base")
    told = raylora(*words, other)
    assert told.code == 2
    assert f"{vera.uri} was trained on another base than other" in told.json["error"]["message"]
    words = ("combine", lora.uri, lora.uri, *words[3:])
    assert "was trained on another base than other" in raylora(*words, other).json["error"]["message"]
    assert not (tmp_path / "out").exists()
    assert raylora("combine", vera.uri, *words[2:], materials / "base").code == 0


def test_the_base_of_vera_is_its_own_where_nobody_names_another(raylora: Raylora, materials: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(materials / "base", base)
    fields: dict[str, object] = {"lora_target_modules": ATTENTION, "adapter": "vera", "lora_r": 12}
    runs = [ended(materials, base=base, seed=seed, **fields) for seed in (1, 2)]
    shutil.rmtree(base)
    save_base(base, intermediate_size=128)
    words = ("combine", *(run.run_id for run in runs), "--method", "cat", "--out", tmp_path / "out", "--no-evaluate")
    told = raylora(*words, "--json")
    assert told.code == 2
    assert f"{runs[0].uri} was trained on another base than base" in told.json["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_what_is_a_folder_is_evaluated_on_the_rows_of_the_others(raylora: Raylora, materials: Path, tmp_path: Path):
    folder, run = (ended(materials, lora_target_modules=ATTENTION, seed=seed) for seed in (1, 2))
    words = ("combine", folder.uri, run.run_id, "--method", "linear")
    told = raylora(*words, "--out", tmp_path / "out", "--json")
    assert told.code == 0, told.err
    assert told.json["rows_not_known"] == [folder.uri]
    losses = {each["adapter"]: each["losses"] for each in told.json["evaluation"]}
    assert losses.keys() == {"combined", folder.uri, run.run_id, "base"}
    assert losses[run.run_id] == {run.run_id: pytest.approx(loss_alone(run.spec, run.uri, tmp_path), rel=1e-5)}
    kept = read_adapter(str(tmp_path / "out")).about["evaluation"]
    assert [each["adapter"] for each in kept] == ["combined", read_adapter(folder.uri).digest, run.run_id, "base"]
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    told = raylora(*words, "--out", tmp_path / "for a person")
    assert "validation rows not known, so not evaluated on: " in told.err


def test_a_base_that_was_held_in_several_ways_is_none_to_evaluate_on(raylora: Raylora, materials: Path, tmp_path: Path):
    holdings: list[dict[str, object]] = [{}, {"load_in_4bit": True}]
    runs = [ended(materials, lora_target_modules=ATTENTION, **fields) for fields in holdings]
    words = ("combine", runs[0].run_id, runs[1].run_id, "--method", "linear", "--out", tmp_path / "out", "--json")
    told = raylora(*words)
    assert told.code == 2, told.err
    message = told.json["error"]["message"]
    assert "in several ways" in message and "--no-evaluate combines without" in message
    assert not (tmp_path / "out").exists()
    assert raylora(*words, "--no-evaluate").code == 0


def test_folders_are_combined_and_not_evaluated(raylora: Raylora, materials: Path, tmp_path: Path):
    runs = [ended(materials, lora_target_modules=ATTENTION, seed=seed) for seed in (1, 2)]
    words = ("combine", runs[0].uri, runs[1].uri, "--method", "linear")
    told = raylora(*words, "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["evaluation"], told.json["rows_not_known"]) == (0, None, [])
    told = raylora(*words, "--out", tmp_path / "other", "--evaluate", "--json")
    assert told.code == 2
    assert (
        f"--evaluate: the validation rows of {runs[0].uri}, {runs[1].uri} are not known"
        in told.json["error"]["message"]
    )
    assert not (tmp_path / "other").exists()
    by_name = ("combine", runs[0].run_id, runs[1].run_id, "--method", "linear", "--no-evaluate")
    assert raylora(*by_name, "--out", tmp_path / "unseen", "--json").json["evaluation"] is None


def test_rows_that_are_gone_are_told_before_anything_is_written(raylora: Raylora, materials: Path, tmp_path: Path):
    runs = [ended(materials, lora_target_modules=ATTENTION, seed=seed) for seed in (1, 2)]
    gone = tmp_path / "gone.jsonl"
    for run in runs:
        spec = run.spec.model_dump(mode="json") | {"datasets": [{"path": str(gone)}]}
        update_run(open_store(default_store_uri()), run.run_id, spec=spec)
    words = ("combine", runs[0].run_id, runs[1].run_id, "--method", "linear", "--out", tmp_path / "out", "--json")
    error = raylora(*words).json["error"]
    assert error["type"] == "DataError"
    assert str(gone) in error["message"] and "--no-evaluate combines without" in error["message"]
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_written(raylora: Raylora, materials: Path, tmp_path: Path):
    run = ended(materials, lora_target_modules=ATTENTION)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    words = ("combine", run.run_id, "nowhere", "--out", full, "--method", "mean", "--weights", "1,x", "--density", "2")
    told = raylora(*words, "--json")
    assert told.code == 2
    message = told.json["error"]["message"]
    for part in ("--weights: got '1,x'", "--method: got 'mean'", "--density: got 2", "something is there already"):
        assert part in message
    assert "adapter: nowhere has no adapter_config.json" in message
    assert [path.name for path in full.iterdir()] == ["mine"]


def test_adapters_of_several_bases_and_dora_are_refused(raylora: Raylora, materials: Path, tmp_path: Path):
    first = ended(materials, lora_target_modules=ATTENTION)
    second = ended(materials, digest="c" * 64, lora_target_modules=ATTENTION, use_dora=True)
    words = ("combine", first.run_id, second.run_id, "--method", "cat", "--out", tmp_path / "out", "--json")
    told = raylora(*words)
    assert told.code == 2
    message = told.json["error"]["message"]
    assert "2 adapters of 2 bases" in message
    assert f"{second.uri} is DoRA" in message
    assert not (tmp_path / "out").exists()


def test_one_adapter_is_nothing_to_combine(raylora: Raylora, materials: Path, tmp_path: Path):
    run = ended(materials, lora_target_modules=ATTENTION)
    told = raylora("combine", run.run_id, "--method", "cat", "--out", tmp_path / "out", "--json")
    assert (told.code, told.json["error"]["message"]) == (2, "combine: got 1 adapter; give two or more of one base")


def test_a_trial_has_its_own_configuration(raylora: Raylora, materials: Path):
    run = tiny_spec(materials / "base", materials / "rows.jsonl", val_set_size=8).model_dump(mode="json")
    asked = SweepSpec.model_validate({"run": run, "space": {"lora_r": {"choice": [2, 8]}}, "num_trials": 2})
    trials = tuple(
        trial(number, 2.0 - number, config={"lora_r": rank}, adapter_uri=f"/a/{number}")
        for number, rank in enumerate((2, 8))
    )
    record = new_sweep(asked.model_dump(mode="json")).model_copy(update={"status": "finished", "trials": trials})
    sweep_id = write_sweep(open_store(default_store_uri()), record).sweep_id
    for word, number, rank in ((f"{sweep_id}/t000", 0, 2), (f"{sweep_id}/t001", 1, 8), (sweep_id, 1, 8)):
        place = find_adapter(word, None)
        assert place.uri == f"/a/{number}"
        assert place.spec is not None and RunSpec.model_validate(place.spec).lora_r == rank
        assert place.base is not None and place.base.base_model == str(materials / "base")


def test_a_sweep_that_is_not_read_any_more_still_has_its_adapters(raylora: Raylora):
    record = sweep([trial(0, 1.0, adapter_uri="/a/0")])  # without a space, it is none
    place = find_adapter(write_sweep(open_store(default_store_uri()), record).sweep_id, None)
    assert (place.uri, place.spec) == ("/a/0", None)
    assert place.base is not None and place.base.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
