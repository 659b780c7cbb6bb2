"""Every command with `--json` prints one object on standard output, and nothing else."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.unit.cli.conftest import Raylora


def test_init_writes_a_configuration_that_is_valid(raylora: Raylora, tmp_path: Path):
    path = tmp_path / "new.yaml"
    told = raylora("init", path, "--dataset", "data/mine.jsonl", "--json")
    assert (told.code, told.json) == (0, {"path": str(path)})
    assert yaml.safe_load(path.read_text())["datasets"][0]["path"] == "data/mine.jsonl"
    told = raylora("validate", path, "--spec-only", "--json")
    assert (told.code, told.json["valid"]) == (0, True)


def test_schema_accepts_a_right_configuration(raylora: Raylora, run_yaml: Path):
    told = raylora("schema", "--json")
    assert told.code == 0
    jsonschema.validate(yaml.safe_load(run_yaml.read_text()), told.json)


def test_schema_of_a_sweep_accepts_a_right_one(raylora: Raylora):
    told = raylora("schema", "sweep", "--json")
    jsonschema.validate({"run": "run.yaml", "space": {"lora_r": {"choice": [8, 16]}}}, told.json)


def test_inspect_lists_the_layers(raylora: Raylora, run_yaml: Path):
    told = raylora("inspect", run_yaml, "--set", "lora_target_modules=[q_proj]", "--set", "lora_r=4", "--json")
    assert told.code == 0
    assert told.json["trainable_parameters"] == 3 * 4 * (64 + 64)
    assert sum(row["num_adapted"] for row in told.json["modules"]) == 3


def test_estimate_has_bytes_by_part_and_rank(raylora: Raylora, run_yaml: Path):
    words = ("estimate", run_yaml, "--set", "distributed.gpus_per_worker=0", "--set", "distributed.num_workers=2")
    small, large = (raylora(*words, "--set", f"lora_r={rank}", "--json").json for rank in (8, 16))
    assert small["trainable_parameters"] * 2 == large["trainable_parameters"]
    assert small["base_parameters"] == large["base_parameters"]
    assert "fits" not in small
    for told in (small, large):
        assert told["peak_bytes"] == max(rank["peak_bytes"] for rank in told["ranks"])
        assert [rank["adapters_bytes"] for rank in told["ranks"]] == [4 * told["trainable_parameters"]] * 2
        assert all(rank["peak_bytes"] > rank["base_bytes"] > 0 for rank in told["ranks"])
    assert [rank["base_bytes"] for rank in small["ranks"]] == [rank["base_bytes"] for rank in large["ranks"]]


def test_estimate_says_whether_a_device_is_large_enough(raylora: Raylora, run_yaml: Path):
    words = ("estimate", run_yaml, "--set", "distributed.gpus_per_worker=0", "--json", "--device-gb")
    told = raylora(*words, "1")
    assert (told.code, told.json["fits"], told.json["device_gb"]) == (0, True, 1.0)
    needed_gb = told.json["peak_bytes"] / 1e9
    assert raylora(*words, needed_gb * 1.01).json["fits"] is True
    assert raylora(*words, needed_gb * 0.99).json["fits"] is False


def test_runs_of_an_empty_home_are_none(raylora: Raylora):
    told = raylora("runs", "--json")
    assert (told.code, told.json) == (0, {"runs": [], "sweeps": []})


def test_runs_of_a_store_without_any_are_none(raylora: Raylora, tmp_path: Path):
    told = raylora("runs", "--store", tmp_path, "--json")
    assert (told.code, told.json) == (0, {"runs": [], "sweeps": []})


def test_doctor_tries_every_part(raylora: Raylora):
    told = raylora("doctor", "--json")
    assert told.code == 0
    found = {check["part"]: check["state"] for check in told.json["checks"]}
    assert found.keys() >= {"GPU", "bfloat16", "bitsandbytes", "DeepSpeed", "Ray", "storage", "S3", "MLflow"}
    assert set(found.values()) <= {"ok", "limited", "missing"}
    assert found["storage"] == "ok"


def test_what_others_print_goes_to_standard_error(raylora: Raylora, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.store.runs.list_runs", lambda store: print("(raylet) a worker died") or [])
    told = raylora("runs", "--json")
    assert told.json == {"runs": [], "sweeps": []}
    assert "(raylet)" in told.err


def test_notes_go_to_standard_error(raylora: Raylora, run_yaml: Path):
    run_yaml.write_text(run_yaml.read_text() + "per_device_train_batch_size: 2\n")
    told = raylora("validate", run_yaml, "--spec-only", "--json")
    assert told.json["valid"] is True
    assert "micro_batch_size" in told.err
