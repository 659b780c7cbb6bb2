"""The configurations a newcomer copies: the demo's, and every one that the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from raylora.spec.reading.load import load_spec
from raylora.spec.sweeps.load import load_sweep
from tests.unit.spec.specs import load_text

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = ("README.md", "clusters/README.md", "docs/configuration.md", "docs/data.md")
NEEDED = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}]}
"""What a page that shows a part of a configuration leaves out."""


def shown(page: str) -> list[str]:
    """The YAML texts of a page."""
    return re.findall(
        r"^```yaml\n(.*?)^```$", (REPOSITORY / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


EVERY = [pytest.param(text, id=f"{page} {number}") for page in PAGES for number, text in enumerate(shown(page), 1)]
TEXTS = [each for each in EVERY if "\nspace:" not in str(each.values[0])]
SHOWN_SWEEPS = [each for each in EVERY if each not in TEXTS]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_shows_one(page: str):
    assert shown(page)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_shown_is_a_configuration(tmp_path: Path, text: str):
    values = yaml.safe_load(text)
    missing = yaml.safe_dump({name: value for name, value in NEEDED.items() if name not in values})
    loaded = load_text(tmp_path, text + ("" if missing == "{}\n" else missing))
    assert loaded.notes == (), "shown in raylora's own words"
    assert loaded.spec.model_dump(mode="json").keys() >= values.keys()


def test_the_demo_is_a_sharded_4_bit_run_on_rows_made_before():
    loaded = load_spec(REPOSITORY / "examples" / "quickstart.yaml")
    spec = loaded.spec
    assert loaded.notes == ()
    assert (spec.quantization, spec.shards_base, spec.distributed.num_workers) == ("nf4", True, 2)
    assert [one.path for one in (*spec.datasets, *spec.test_datasets)] == [
        "examples/data/train.jsonl",
        "examples/data/validation.jsonl",
    ]


def test_pairs_of_answers_are_learned_from_rows_made_before():
    loaded = load_spec(REPOSITORY / "examples" / "preferences.yaml")
    spec = loaded.spec
    assert loaded.notes == ()
    assert (spec.rl, spec.quantization, spec.validates) == ("dpo", "nf4", True)
    assert [(one.path, one.type) for one in spec.datasets] == [("examples/data/pairs.jsonl", "preference")]


def test_sentences_are_classified_from_rows_made_before():
    loaded = load_spec(REPOSITORY / "examples" / "classification.yaml")
    spec = loaded.spec
    assert loaded.notes == ()
    assert (spec.task_type, spec.validates) == ("seq_cls", True)
    assert {one.type for one in spec.datasets} == {"classification"}
    assert len(spec.labels) > 1


SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))


def test_there_are_sweeps_to_copy():
    assert {path.stem for path in SWEEPS} >= {"rank-alpha-targets", "lora-dora-rslora", "tpe-asha", "pbt"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_to_copy_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    loaded = load_sweep(path)
    assert loaded.notes == ()
    assert loaded.spec.max_t is not None


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_to_copy_is_made_short_from_the_command_line(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    spec = load_sweep(path, ["num_trials=4", "max_steps=10"]).spec
    assert (spec.num_configurations, spec.max_t) == (4, 10)


@pytest.mark.parametrize("text", [*SHOWN_SWEEPS, pytest.param(shown("docs/sweeps.md")[0], id="docs/sweeps.md")])
def test_a_sweep_that_is_shown_is_one(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(REPOSITORY)
    assert SHOWN_SWEEPS and len(shown("docs/sweeps.md")) == 1
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_sweep(path).spec.num_configurations == 16
