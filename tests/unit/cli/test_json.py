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


def test_inspect_lists_the_layers(raylora: Raylora, run_yaml: Path):
    told = raylora("inspect", run_yaml, "--set", "lora_target_modules=[q_proj]", "--set", "lora_r=4", "--json")
    assert told.code == 0
    assert told.json["trainable_parameters"] == 3 * 4 * (64 + 64)
    assert sum(row["num_adapted"] for row in told.json["modules"]) == 3
    assert told.json["problems"] == []


def test_runs_of_an_empty_home_are_none(raylora: Raylora):
    told = raylora("runs", "--json")
    assert (told.code, told.json) == (0, {"runs": []})


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
    assert told.json == {"runs": []}
    assert "(raylet)" in told.err


def test_notes_go_to_standard_error(raylora: Raylora, run_yaml: Path):
    run_yaml.write_text(run_yaml.read_text() + "per_device_train_batch_size: 2\n")
    told = raylora("validate", run_yaml, "--spec-only", "--json")
    assert told.json["valid"] is True
    assert "micro_batch_size" in told.err
