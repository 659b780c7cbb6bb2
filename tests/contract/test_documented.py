"""The tables of docs/strategies.md say *tested* where the strategies' contract tests, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from tests.contract.documented import ENDS, tables
from tests.contract.strategy_specs import STRATEGIES
from tests.contract.strategy_worker import BACK_ALONE, CASES, MOVES, PEFT_UNDER

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"
LINES = {"`ddp`": ("ddp",), "`fsdp`": ("fsdp",), "ZeRO-1, ZeRO-2": ("zero1", "zero2"), "ZeRO-3": ("zero3",)}
QUANTIZATIONS = {"plain": "none", "int8": "int8", "NF4": "nf4", "FP4": "fp4"}
UNDER = {
    **{name: {of for of, kind in CASES if kind == quantization} for name, quantization in QUANTIZATIONS.items()},
    "packed bank": set(STRATEGIES),
    "PEFT bank": set(PEFT_UNDER),
    "gradient checkpointing": set(STRATEGIES),
}


def said_to_be_tested(cells: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    return {names for names, word in cells.items() if word == "tested"}


def test_what_goes_with_what():
    cells = tables(PAGE.read_text(encoding="utf-8"))[""]
    assert cells.keys() == {(line, column) for line in LINES for column in UNDER}
    assert said_to_be_tested(cells) == {
        (line, column) for line, column in cells if UNDER[column].issuperset(LINES[line])
    }


def test_which_runs_go_on_where():
    cells = tables(PAGE.read_text(encoding="utf-8"))["from, to"]
    assert cells.keys() == {(start, end) for start in ENDS for end in ENDS}
    found = {(ENDS[start], ENDS[end]) for start, end in said_to_be_tested(cells)}
    assert found == {*MOVES, *BACK_ALONE}


def test_cells_are_told_apart():
    text = "Words.\n\n| of | a | b |\n|---|---|---|\n| `c` | tested | not run |\n| d | x | tested |\n\nWords | words\n"
    (cells,) = tables(text).values()
    assert cells == {("`c`", "a"): "tested", ("`c`", "b"): "not run", ("d", "a"): "x", ("d", "b"): "tested"}
    assert said_to_be_tested(cells) == {("`c`", "a"), ("d", "b")}
