"""Each method on each base under each strategy in a cell of its own, as docs/methods-by-base.md has it.

The cells of docs/methods.md, the rules, and what the contract tests run enter; the page leaves.
`python -m tests.contract.methods_by_base > docs/methods-by-base.md` writes it; `test_methods.py` holds it to this.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from itertools import product

from tests.contract.documented import ENDS
from tests.contract.methods_page import BANKS, BASES, HELD, METHODS, OF_PEFT, PLACES, TABLES, is_among, number_of
from tests.contract.pack_worker import MEMBERS_ON
from tests.contract.strategy_worker import CASES
from tests.reference.peft_types import TYPES

ONE_PROCESS = "one process"
COLUMNS = (ONE_PROCESS, *PLACES)
REFUSED_TYPES = tuple(kind for kind, _ in TABLES["type"])
"""Of PEFT's, whatever the base and the strategy."""
KINDS_OF: Mapping[str, Collection[str]] = {
    **dict.fromkeys(BANKS, METHODS),
    "in a pack": METHODS,
    OF_PEFT: (*TYPES, *REFUSED_TYPES),
}
"""Rows of each table."""
TITLES = {
    "raylora's bank": "Alone, in raylora's bank",
    "in a pack": "Beside others in a pack",
    "PEFT's bank": "Alone, in PEFT's bank",
    OF_PEFT: "PEFT's own types, through a `peft:` block, alone",
}
WRITTEN_BY = "python -m tests.contract.methods_by_base"
HEAD = f"""\
# Methods by base and strategy

Written by `{WRITTEN_BY}` from [methods.md](methods.md), the rules, and what the
contract tests train; a test fails when they differ. Each combination of a method, a base and a strategy has a cell of
its own, also where no run had all three:

- *run (n)*: test n of [methods.md](methods.md#tests) trains this method on this base under this strategy, on two
  workers over gloo, or in one process. Test 9 does so beside others in a pack, with the losses of each alone.
- *from n and m*: **not run as a whole.** Test n trains the method on this base in one process, test m the method under
  this strategy on another base. That one follows from both rests on what a strategy is here: it places the frozen base
  and hands each layer its weight whole, unpacked as one process unpacks it
  ([decision 2](decisions/0002-a-strategy-places-the-base.md)); a method sees that weight and the layer's inputs and
  outputs, and not how they came. Test 6 holds this for each base under each strategy, with LoRA: losses, adapters and
  answers of one process, and the base by its SHA-256.
- *refused*, *alone*: as in [methods.md](methods.md#what-is-refused), where the words of the errors are. What is in
  PEFT's bank, PEFT's own types among it, has no table in a pack: it is alone in every cell where it is not refused.
"""


def cells() -> dict[tuple[str, str, str, str], str]:
    """Every cell by table, row, base and column."""
    return {
        (table, row, base, column): _cell(table, row, base, column)
        for table, rows in KINDS_OF.items()
        for row, base, column in product(rows, BASES, COLUMNS)
    }


def numbers_in(word: str) -> tuple[str, ...]:
    """The numbers of the tests that a cell names."""
    return tuple(part for part in word.replace("(", " ").replace(")", " ").split() if part.isdigit())


def _cell(table: str, row: str, base: str, column: str) -> str:
    if row in REFUSED_TYPES:
        return "refused"
    of_base, of_place = TABLES[table][row, base], TABLES[table][row, base if column == ONE_PROCESS else column]
    for word in ("refused", "alone"):
        if word in (of_base, of_place):
            return word
    tests = [number_of(of_base), number_of(of_place)]
    if column == ONE_PROCESS or _is_run(table, row, base, column):
        return f"run ({tests[1]})"
    return f"from {tests[0]} and {tests[1]}"


def _is_run(table: str, row: str, base: str, column: str) -> bool:
    """Whether the test of a strategy's column has the method on this base."""
    if table == "raylora's bank" and row == "LoRA":
        return (ENDS[column], HELD[base]) in CASES
    if table == "in a pack":
        return is_among(row, MEMBERS_ON.get(base.lower(), ()))
    return base == ("plain" if TABLES[table][row, "NF4"] == "refused" else "NF4")


def page() -> str:
    """The text of docs/methods-by-base.md; methods whose cells are the same on a base share a line."""
    found, parts = cells(), [HEAD]
    for table, rows in KINDS_OF.items():
        lines = [_line(["", "base", *COLUMNS]), _line(["---"] * (2 + len(COLUMNS)))]
        for base in BASES:
            alike: dict[tuple[str, ...], list[str]] = {}
            for row in rows:
                alike.setdefault(tuple(found[table, row, base, column] for column in COLUMNS), []).append(row)
            lines += [_line([", ".join(names), base, *words]) for words, names in alike.items()]
        parts.append(f"## {TITLES[table]}\n\n" + "".join(lines))
    return "\n".join(parts)


def _line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
