from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raylora.spec.fields.knobs import KINDS
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.pages.reference import configuration_markdown, sweeps_markdown
from raylora.spec.reading.catalog import GROUPS
from raylora.spec.sweeps.rules import SWEEP_RULES

REPOSITORY = Path(__file__).parents[3]


def test_the_committed_reference_is_the_generated_one():
    committed = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert committed == configuration_markdown(), "run: make docs"


def test_the_committed_reference_of_sweeps_is_the_generated_one():
    committed = (REPOSITORY / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert committed == sweeps_markdown(), "run: make docs"


def test_every_field_of_a_sweep_and_every_kind_of_knob_is_in_it():
    text = sweeps_markdown()
    assert all(f"| `{name}` |" in text for name in SweepFields.model_fields)
    assert all(f"| `space.NAME.{kind}` |" in text for kind in KINDS)
    assert all(f"- {rule.sentence}\n" in text for rule in SWEEP_RULES)


def test_every_field_of_a_run_is_in_one_group():
    flat = [name for group in GROUPS if not group.prefix for name in group.fields]
    nested = {group.prefix.partition(".")[0] for group in GROUPS if group.prefix}
    assert sorted(flat) == sorted(set(RunFields.model_fields) - nested | {"datasets"})


def test_it_says_type_default_description_and_other_spellings():
    text = configuration_markdown()
    assert "| `lora_r` | a whole number of at least 1 | `16` | Rank of the update; at most" in text
    assert "Also read: `r`, `lora_rank`. |" in text
    assert "| `base_model` | text | required |" in text
    assert "| `distributed.strategy` | ddp, fsdp or deepspeed | `ddp` |" in text


@pytest.mark.parametrize(("words", "text"), [([], configuration_markdown()), (["sweep"], sweeps_markdown())])
def test_the_command_prints_it(words: list[str], text: str):
    done = subprocess.run(
        [sys.executable, "-m", "raylora.spec.pages.reference", *words],
        capture_output=True,
        check=True,
        timeout=60,
        cwd=REPOSITORY,
    )
    assert done.stdout.decode() == text
