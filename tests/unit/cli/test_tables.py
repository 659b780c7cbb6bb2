"""What a person is shown: the facts in each table, whatever the art around them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from raylora.cli.summary import print_summary
from raylora.runtime.checkup import CHECKS
from raylora.store.home import default_store_uri
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells

RESULT = {
    "run_id": "20260101-000000-abcdef",
    "mlflow_run_id": "0123456789abcdef",
    "mlflow_command": "mlflow ui --backend-store-uri sqlite:////data/mlflow.db",
    "chat_command": "raylora chat 20260101-000000-abcdef --store /data/store",
    "resume_command": "raylora resume 20260101-000000-abcdef --store /data/store",
    "adapter_uri": "/data/store/runs/20260101-000000-abcdef/adapter",
    "checkpoint_uri": "/data/store/runs/20260101-000000-abcdef/checkpoints/step-00000016",
    "best_checkpoint_uri": "/data/store/runs/20260101-000000-abcdef/checkpoints/step-00000008",
    "strategy": "fsdp",
    "base_bytes_per_rank": [93_000_000, 92_500_000],
    "trainable_parameters": 4_884_480,
    "steps": 16,
    "eval_loss_before": 4.0,
    "eval_loss": 2.0,
    "eval_metrics": {"eval_perplexity": 7.389056, "eval_token_accuracy": 0.25},
    "train_loss": 2.25,
    "tokens": 16_384,
    "tokens_per_s": 1234.4,
    "wall_s": 61.4,
    "sample_prompts": ["What does [bold] do?"],
    "samples": {"before": ["It eats."], "after": ["It makes text heavy."]},
}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr("raylora.cli.summary.out", Console(file=shown, width=160, highlight=False))
    return shown


def test_the_summary_of_a_run(screen: io.StringIO):
    print_summary(RESULT)
    rows = cells(screen.getvalue())
    assert ["run 20260101-000000-abcdef"] in rows
    assert ["validation loss", "4.0000 before, 2.0000 after (-50.0%)"] in rows
    assert ["validation perplexity", "7.389"] in rows
    assert ["validation token accuracy", "0.25"] in rows
    assert ["training loss", "2.2500 at step 16"] in rows
    assert ["throughput", "1,234 tokens/s, 16,384 tokens trained on"] in rows
    assert ["trainable parameters", "4,884,480"] in rows
    assert ["base per rank (fsdp)", "93.0 MB, 92.5 MB"] in rows
    assert ["What does [bold] do?", "It eats.", "It makes text heavy."] in rows
    assert ["adapter", RESULT["adapter_uri"]] in rows
    assert ["checkpoint", RESULT["checkpoint_uri"]] in rows
    assert ["the best one", RESULT["best_checkpoint_uri"]] in rows
    assert ["open it with", RESULT["mlflow_command"]] in rows
    assert ["talk to it", RESULT["chat_command"]] in rows
    assert ["show again", RESULT["resume_command"]] in rows


@pytest.mark.parametrize("told", [{"chat_command": None}, {}], ids=["nobody to talk to", "a result of before"])
def test_a_command_that_there_is_not_is_not_shown(screen: io.StringIO, told: dict[str, None]):
    print_summary({name: value for name, value in RESULT.items() if name != "chat_command"} | told)
    assert "talk to it" not in screen.getvalue()
    assert ["adapter", RESULT["adapter_uri"]] in cells(screen.getvalue())


def test_a_narrow_terminal_breaks_nothing_that_people_copy(monkeypatch: pytest.MonkeyPatch):
    shown = Console(file=io.StringIO(), width=40, highlight=False)
    monkeypatch.setattr("raylora.cli.summary.out", shown)
    places = {name: f"{RESULT[name]}/{'deep/' * 20}" for name in ("adapter_uri", "checkpoint_uri", "mlflow_command")}
    print_summary({**RESULT, **places})
    lines = shown.file.getvalue().splitlines()
    for place in places.values():
        assert [line for line in lines if line.endswith(f" {place}")], place


def test_the_summary_of_a_run_without_validation_and_prompts(screen: io.StringIO):
    samples = {"before": [], "after": []}
    nothing = {"eval_loss_before": None, "eval_loss": None, "eval_metrics": {}, "sample_prompts": []}
    print_summary({**RESULT, **nothing, "samples": samples})
    assert "validation" not in screen.getvalue()
    assert "answers" not in screen.getvalue()
    assert ["training loss", "2.2500 at step 16"] in cells(screen.getvalue())


def test_the_estimate(raylora: Raylora, run_yaml: Path):
    words = ("estimate", run_yaml, "--set", "distributed.gpus_per_worker=0", "--set", "distributed.num_workers=2")
    predicted, told = raylora(*words, "--json").json, raylora(*words, "--device-gb", "1")
    rows = cells(told.out)
    assert f"{predicted['trainable_parameters']:,} trainable of {predicted['base_parameters']:,}" in told.out
    assert ["part", "rank 0", "rank 1"] in rows
    for part, shown in (("base_bytes", "base"), ("optimizer_bytes", "optimizer"), ("peak_bytes", "peak")):
        assert [shown, *(f"{rank[part] / 1e6:,.1f} MB" for rank in predicted["ranks"])] in rows
    assert "do not add up to the peak" in " ".join(told.out.split())
    assert ["fits 1 GB"] in rows
    assert ["does not fit 0.0001 GB"] in cells(raylora(*words, "--device-gb", "0.0001").out)


def test_the_layers(raylora: Raylora, run_yaml: Path):
    told = raylora("inspect", run_yaml, "--set", "lora_target_modules=[q_proj]", "--set", "lora_r=4")
    rows = cells(told.out)
    assert [row[1:] for row in rows if row and row[0].endswith("q_proj")] == [["64 x 64", "3", "3", "1,536"]]
    assert [row[3] for row in rows if row and row[0].endswith("k_proj")] == ["0"]
    assert ["1,536 trainable parameters"] in rows


def test_the_layers_of_a_target_that_matches_nothing(raylora: Raylora, run_yaml: Path):
    told = raylora("inspect", run_yaml, "--set", "lora_target_modules=[q_prj]")
    assert told.code == 2
    assert any(row and row[0].endswith("q_proj") for row in cells(told.out)), "what there is, is shown all the same"
    assert "error: lora_target_modules: 'q_prj' matches no module" in told.err


def test_the_checkup(raylora: Raylora):
    rows = cells(raylora("doctor").out)
    shown = {row[0]: row[1] for row in rows if row and row[0] in CHECKS}
    assert shown.keys() == CHECKS.keys()
    assert set(shown.values()) <= {"ok", "limited", "missing"}


def test_a_narrow_terminal_breaks_no_path_of_the_checks(
    raylora: Raylora, run_yaml: Path, monkeypatch: pytest.MonkeyPatch
):
    for console in ("raylora.cli.config.out", "raylora.cli.output.out"):
        monkeypatch.setattr(f"{console}._width", 30)
    told = raylora("validate", run_yaml).out
    assert f"{run_yaml} is valid\n" in told
    assert f"  store {default_store_uri()} can be written\n" in told


def test_a_configuration_that_is_valid(raylora: Raylora, run_yaml: Path):
    checked, told = raylora("validate", run_yaml, "--json").json, raylora("validate", run_yaml)
    assert f"{run_yaml} is valid" in told.out
    assert f"base {checked['base']['name']} {checked['base']['digest'][:12]}, 21 adapted layers" in told.out
    assert "rows: 32 to train on, 8 to validate on" in told.out
    assert f"store {checked['store']} can be written" in told.out
    assert raylora("validate", run_yaml, "--spec-only").out.splitlines() == [f"{run_yaml} is valid"]


def test_what_became_of_the_rows_is_told_once(raylora: Raylora, run_yaml: Path):
    told = raylora("validate", run_yaml)
    assert len([line for line in (told.out + told.err).splitlines() if "40 of 40 rows" in line]) == 1


def test_a_sweep_that_is_valid(raylora: Raylora, run_yaml: Path, tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"run: {run_yaml}\nnum_trials: 3\nrepeats: 2\nspace: {{lora_r: {{choice: [4, 8]}}}}\n")
    told = raylora("validate", path, "--set", "max_steps=20")
    assert told.code == 0, told.err
    assert told.out.startswith(f"{path} is valid\n  a sweep of 6 trials; next: raylora sweep {path} --plan\n")
    assert "rows: 32 to train on, 8 to validate on" in told.out
    assert raylora("validate", path, "--spec-only", "--json").json["valid"] is True
    assert "num_trialz" in raylora("validate", path, "--set", "num_trialz=4", "--json").json["error"]["message"]
