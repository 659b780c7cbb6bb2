"""What docs/methods.md says, cell by cell, and what the rules and the tests make of the fields that a cell stands for.

Shared by the tests of the page and by what makes docs/methods-by-base.md of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from raylora.errors import SpecError
from raylora.spec.run import RunSpec
from tests.contract.documented import ENDS, tables
from tests.contract.strategy_specs import QUANTIZATIONS, STRATEGIES

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
TABLES = tables(TEXT)
TESTS = dict(re.findall(r"^(\d+)\. `(\S+)`$", TEXT, re.MULTILINE))
IN_TESTS = {
    **{"LoRA": "lora", "rsLoRA": "rslora", "LoRA+": "loraplus", "DoRA": "dora", "gaussian start": "gaussian"},
    **{"PiSSA": "pissa", "PiSSA by iterations": "pissa_niter", "OLoRA": "olora", "VeRA": "vera"},
    **{"LoftQ": "loftq", "EVA": "eva", "AdaLoRA": "adalora", "full": "full", "GaLore": "galore"},
}
HELD = {"plain": "none", "int8": "int8", "NF4": "nf4"}
BASES = {name: QUANTIZATIONS[kind] for name, kind in HELD.items()}
PLACES = {name: {"distributed": STRATEGIES[end]} for name, end in ENDS.items() if end in STRATEGIES}
PACKING = [name for name in PLACES if name not in ("ZeRO-1", "ZeRO-2")]
BANKS = {"raylora's bank": {"adapter_bank": "packed"}, "PEFT's bank": {"adapter_bank": "peft"}}
PAIRS = {"datasets": [{"path": "pairs.jsonl", "type": "preference"}]}
RATED = {"datasets": [{"path": "rated.jsonl", "type": "unpaired_preference"}]}
OBJECTIVES = {**{rl: {"rl": rl, **PAIRS} for rl in ("dpo", "ipo", "orpo")}, "kto": {"rl": "kto", **RATED}}
OF_PEFT = "PEFT's own"
Fields = Mapping[str, Any]


def fields_in(cell: str) -> dict[str, Any]:
    """What a cell shows as code."""
    return yaml.safe_load("{" + ", ".join(re.findall(r"`([^`]+)`", cell)) + "}") or {}


METHODS = {name: fields_in(cell) for (name, column), cell in TABLES["method"].items() if column == "asked for with"}


def run_of(*parts: Fields) -> RunSpec:
    fields: dict[str, Any] = {"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}]}
    for part in parts:
        fields |= part
    return RunSpec.model_validate(fields)


def refusal(*parts: Fields) -> str:
    """The error of a run with these fields; nothing where it is taken."""
    try:
        run_of(*parts)
    except SpecError as error:
        return str(error)
    return ""


def is_among(method: str, members: Iterable[Fields]) -> bool:
    """Whether one of the members is of a method, with whatever ratio or iterations."""

    def kind(value: object) -> str:
        return str(value).rstrip("0123456789.")

    asked = METHODS[method]
    return any(all(key in each and kind(each[key]) == kind(asked[key]) for key in asked) for each in members)


def named(test: str, row: str, column: str, base: str | None = None) -> str:
    """The test that shows a cell.

    Args:
        test: As the page lists it.
        row: Of the cell.
        column: Of the cell.
        base: On which; where absent that of the column, and NF4 in the column of a strategy.
    """
    base = base or (column if column in BASES else "NF4")
    names = {"KIND": IN_TESTS.get(row, row), "OBJECTIVE": row, "STRATEGY": ENDS.get(column, column)}
    for name, value in {**names, "BASE": base.lower(), "HELD": HELD[base]}.items():
        test = test.replace(name, value)
    return test


def number_of(word: str) -> str | None:
    """The number of the test that a cell names."""
    found = re.fullmatch(r"tested \((\d+)\)|refused|alone", word)
    assert found, word
    return found[1]
