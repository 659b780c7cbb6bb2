"""What a user can get wrong: exit code 2, one message that says what to do, and nothing left behind."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from raylora.log import ROOT
from raylora.runtime.first_look import first_look
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import FOLDER, RECORD, new_run, write_run
from raylora.store.sweeps import new_sweep, write_sweep
from tests.unit.cli.conftest import Raylora
from tests.unit.store.disks import close, mounted

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def refused(raylora: Raylora, tmp_path: Path, *words: object) -> str:
    """The message of a refusal."""
    told = raylora("validate", *words, "--json")
    assert told.code == 2, told.err
    error = told.json["error"]
    assert told.json["exit_code"] == 2
    assert "Traceback" not in told.err
    assert error["message"] in told.err
    assert not (tmp_path / "home" / "store").exists()
    return str(error["message"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["rows.jsonl", "no such file"]),
        (b"", ["rows.jsonl"]),
        (GOOD + b'{"messages": \n', ["rows.jsonl", "line 2"]),
        (b'{"text": "no messages here"}\n', ["rows.jsonl", "messages"]),
        (b'{"messages": "\xff\xfe"}\n', ["rows.jsonl", "UTF-8"]),
    ],
    ids=["missing", "empty", "malformed", "unknown column", "not UTF-8"],
)
def test_rows_that_cannot_be_read(
    raylora: Raylora, run_yaml: Path, tmp_path: Path, content: bytes | None, words: list[str]
):
    rows = tmp_path / "mine" / "rows.jsonl"
    rows.parent.mkdir()
    if content is not None:
        rows.write_bytes(content)
    message = refused(raylora, tmp_path, run_yaml, "--set", f"datasets.0.path={rows}")
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lora_target_modules=[q_prj]", ["lora_target_modules", "q_prj", "q_proj"]),
        ("lora_r=0", ["lora_r", "got 0"]),
        ("lora_r=4096", ["lora_r: got 4096, above the smaller side of", "at most 32", "Lower lora_r"]),
        ("lora_alpha=0", ["lora_alpha", "got 0; allowed: a number above 0"]),
        ("lora_alpha=.inf", ["lora_alpha"]),
        ("lora_dropout=1", ["lora_dropout", "got 1; allowed: a number of at least 0 and below 1"]),
        ("peft={peft_type: LORA, lora_alpha: 0}", ["peft: lora_alpha: got 0; allowed: a number above 0"]),
        (
            "peft={peft_type: LORA, lora_dropout: 1.0}",
            ["peft: lora_dropout: got 1.0; allowed: a number of at least 0 and below 1"],
        ),
        ("peft={peft_type: LORA, r: 0}", ["peft: r: got 0; allowed: a whole number of at least 1"]),
        (
            "peft={peft_type: LORA, r: 4096, target_modules: [v_proj]}",
            ["peft: r: got 4096, above the smaller side of", "at most 32", "Lower r or leave"],
        ),
        ("lora_target_modules=.*", ["'.*' matches the output head lm_head", "all-linear does"]),
        ("adapter=dorra", ["adapter", "got 'dorra'; allowed: lora", "nearest: dora"]),
        ("learning_rate=.nan", ["learning_rate"]),
        ("lora_rnk=8", ["lora_rnk", "lora_r"]),
        ("distributed.num_workers=0", ["distributed.num_workers", "got 0"]),
        ("tracking.uri=./mlruns", ["tracking.uri", "./mlruns", "sqlite://"]),
        ("storage.uri=/proc/x", ["/proc/x", "name another storage.uri"]),
        ("datasets.0.weight=0.0001", ["datasets: weights [0.0001] of 32 rows", "raise a weight"]),
    ],
)
def test_settings_that_cannot_be(raylora: Raylora, run_yaml: Path, tmp_path: Path, setting: str, words: list[str]):
    message = refused(raylora, tmp_path, run_yaml, "--set", setting)
    assert all(word in message for word in words), message


def test_rows_without_a_pair(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    rows = tmp_path / "pairs.jsonl"
    rows.write_bytes(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "rejected": "b"}\n')
    settings = ("--set", "rl=dpo", "--set", f"datasets=[{{path: {rows}, type: preference}}]")
    message = refused(raylora, tmp_path, run_yaml, *settings)
    words = [f"{rows}", "line 2", "no column 'chosen'", "type preference reads chosen, rejected"]
    assert all(word in message for word in words), message


def test_an_answer_without_a_label(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    rows = tmp_path / "rated.jsonl"
    answers = (f'{{"prompt": "p", "completion": "a", "label": {label}}}\n' for label in ("true", '"no"'))
    rows.write_text("".join(answers))
    settings = ("--set", "rl=kto", "--set", f"datasets=[{{path: {rows}, type: unpaired_preference}}]")
    message = refused(raylora, tmp_path, run_yaml, *settings)
    words = [f"{rows}", "line 2", "column 'label' holds true (desirable) or false (undesirable)", "got str 'no'"]
    assert all(word in message for word in words), message


@pytest.mark.parametrize("size", ["nan", "inf", "-5", "0"])
def test_a_device_of_no_size(raylora: Raylora, run_yaml: Path, size: str):
    told = raylora("estimate", run_yaml, "--device-gb", size, "--json")
    assert told.code == 2, told.err
    assert f"--device-gb: got {size}; allowed: above 0" in told.json["error"]["message"]


def test_all_problems_come_at_once(raylora: Raylora, run_yaml: Path):
    run_yaml.write_text(run_yaml.read_text() + "lora_r: 0\nlearning_rate: fast\nsequence_length: 3\n")
    told = raylora("validate", run_yaml, "--json")
    num_lines = len(run_yaml.read_text().splitlines())
    found = {(problem["field"], problem["line"]) for problem in told.json["error"]["problems"]}
    assert told.code == 2
    assert found >= {("lora_r", num_lines - 2), ("learning_rate", num_lines - 1)}
    assert len(told.json["error"]["problems"]) == 3


def test_a_base_that_needs_remote_code(raylora: Raylora, run_yaml: Path, materials: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(materials / "base", base)
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "configuration.Unheard"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "configuration.py").write_text("raise SystemExit('foreign code ran')\n")
    message = refused(raylora, tmp_path, run_yaml, "--set", f"base_model={base}")
    assert "unheard-of" in message and "needs Python code" in message


def test_a_base_in_pickles_only(raylora: Raylora, run_yaml: Path, materials: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(materials / "base", base)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    message = refused(raylora, tmp_path, run_yaml, "--set", f"base_model={base}")
    assert "pickle" in message
    assert "pytorch_model.bin" in message


def test_a_store_that_is_no_folder(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    message = refused(raylora, tmp_path, run_yaml, "--set", f"storage.uri={run_yaml}/store")
    assert "storage.uri" in message


def test_a_store_that_may_not_be_written(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        close(disk)
        message = refused(raylora, tmp_path, run_yaml, "--set", f"storage.uri={disk}/store")
    assert str(disk) in message


def test_a_record_that_cannot_be_read(raylora: Raylora, tmp_path: Path):
    """A store's error, but nothing has started yet."""
    record = tmp_path / "store" / FOLDER / "20200101-000000-abcdef" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text("{")
    told = raylora("resume", "20200101-000000-abcdef", "--store", tmp_path / "store", "--json")
    assert (told.code, told.json["exit_code"]) == (2, 2), told.err
    assert str(record) in told.json["error"]["message"]


def test_a_configuration_that_is_missing(raylora: Raylora, tmp_path: Path):
    assert "raylora init" in refused(raylora, tmp_path, tmp_path / "nowhere.yaml")


def test_a_configuration_that_is_no_yaml(raylora: Raylora, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("base_model: [\n")
    assert "bad.yaml" in refused(raylora, tmp_path, tmp_path / "bad.yaml")


@pytest.mark.parametrize("words", [["train"], ["train", "--nope", "x"], ["schema", "extra"], ["unheard-of"]])
def test_words_that_are_no_command(raylora: Raylora, words: list[str]):
    told = raylora(*words, "--json")
    assert told.code == 2
    assert told.json["exit_code"] == 2
    assert told.json["error"]["message"]
    assert "Traceback" not in told.err


def test_what_is_not_there_is_neither_resumed_as_a_run_nor_as_a_sweep(raylora: Raylora):
    told = raylora("resume", "nosuch", "--json")
    assert told.code == 2
    assert "'nosuch' is no run and no sweep of" in told.json["error"]["message"]
    assert "there: nothing; run `raylora runs`" in told.json["error"]["message"]
    store = open_store(default_store_uri())
    sweep_id = write_sweep(store, new_sweep({})).sweep_id
    run_id = write_run(store, new_run(RunSpec(base_model="m", datasets=[{"path": "r.jsonl"}]))).run_id
    message = raylora("resume", "nosuch", "--json").json["error"]["message"]
    assert sweep_id in message and run_id in message


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_store_that_is_not_there_has_no_runs_to_show(raylora: Raylora, tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    told = raylora("runs", "--store", tmp_path / name, "--json")
    assert told.code == 2
    assert f"{tmp_path / name}: there is no store" in told.json["error"]["message"]
    assert not (tmp_path / "nowhere").exists(), "looking makes nothing"


def test_targets_that_match_nothing_are_refused_alike(raylora: Raylora, run_yaml: Path):
    words = (run_yaml, "--set", "lora_target_modules=[q_prj]", "--json")
    told = [raylora(command, *words) for command in ("inspect", "validate", "estimate")]
    assert [each.code for each in told] == [2, 2, 2]
    assert told[0].json == told[1].json == told[2].json


def test_what_lies_beyond_the_file_is_told_at_once(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    wrong = ("tracking.uri=./mlruns", f"storage.uri={run_yaml}/store", f"datasets.0.path={tmp_path}/gone.jsonl")
    settings = [word for each in wrong for word in ("--set", each)]

    def told(*words: str) -> list[str]:
        message = refused(raylora, tmp_path, run_yaml, *words)
        return re.sub(r"write-test-\w+", "write-test", message).splitlines()

    tracking, storage, rows = (told("--set", each) for each in wrong)
    for setting in ("lora_target_modules=[q_prj]", f"base_model={tmp_path}/gone.gguf"):
        expected = [*tracking, *storage, *told("--set", setting), *rows]
        assert told(*settings, "--set", setting) == ["several problems", *(f"  {line}" for line in expected)]


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_files_that_are_not_there_are_told_together_before_ray_is_loaded(
    raylora: Raylora, run_yaml: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
):
    for module in ("raylora.runtime.launch", "raylora.sweep.launch"):
        monkeypatch.setitem(sys.modules, module, None)  # to import it is an error
    values = yaml.safe_load(run_yaml.read_text())
    values |= {"base_model": str(tmp_path / "gone.gguf"), "datasets": [{"path": "gone.jsonl"}, {"path": "go/*.jsonl"}]}
    run_yaml.write_text(yaml.safe_dump(values | {"max_steps": 10}))
    (tmp_path / "sweep.yaml").write_text(f"run: {run_yaml}\nnum_trials: 2\nspace: {{lora_r: {{choice: [4, 8]}}}}\n")
    told = raylora(command, run_yaml if command == "train" else tmp_path / "sweep.yaml", "--json")
    assert told.code == 2, told.err
    for name in ("gone.gguf", "gone.jsonl", "go/*.jsonl"):
        assert name in told.json["error"]["message"]


def test_a_bucket_and_the_hub_are_not_asked_at_first():
    first_look(RunSpec(base_model="s3://bucket/base", datasets=[{"path": "s3://bucket/rows.jsonl"}]))
    first_look(RunSpec(base_model="owner/name", datasets=[{"path": "owner/rows"}]))


@pytest.mark.parametrize("word", ["--quiet", "-q"])
def test_quiet_is_taken_wherever_it_stands(raylora: Raylora, run_yaml: Path, word: str):
    for words in ((word, "validate", run_yaml), ("validate", word, run_yaml), ("validate", run_yaml, word)):
        assert raylora(*words, "--spec-only").code == 0
        assert logging.getLogger(ROOT).level == logging.WARNING
    raylora("validate", run_yaml, "--spec-only")
    assert logging.getLogger(ROOT).level == logging.INFO


def test_datasets_that_are_not_there_are_told_at_once(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    more = f"test_datasets=[{{path: {tmp_path}/second.jsonl}}]"
    words = ("--set", f"datasets.0.path={tmp_path}/first.jsonl", "--set", "val_set_size=0", "--set", more)
    told = raylora("validate", run_yaml, *words, "--json")
    assert (told.code, told.json["error"]["type"]) == (2, "DataError")
    assert [name in told.json["error"]["message"] for name in ("first.jsonl", "second.jsonl")] == [True, True]


def test_init_keeps_what_is_there(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    text = run_yaml.read_text()
    assert raylora("init", run_yaml, "--json").code == 2
    assert run_yaml.read_text() == text
    told = raylora("init", tmp_path / "no" / "such" / "folder.yaml", "--json")
    assert (told.code, told.json["error"]["type"]) == (2, "InputError")


def test_the_right_configuration_is_right(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    told = raylora("validate", run_yaml, "--json")
    assert told.code == 0, told.err
    assert told.json["valid"] is True
    assert (told.json["data"]["num_train_rows"], told.json["data"]["num_validation_rows"]) == (32, 8)
    assert told.json["num_targets"] == 3 * 7
    assert yaml.safe_load(run_yaml.read_text())["val_set_size"] == 8
    assert not (tmp_path / "home" / "store").exists(), "the trial of the store leaves nothing"
