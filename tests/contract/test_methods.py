"""docs/methods.md says refused where the rules refuse, alone where packs do without, and tested where a test is.

A method is added as a row of each table, and to `IN_TESTS` as tests call it. docs/methods-by-base.md has
bases and strategies in one cell, and follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
import torch

from raylora.errors import ModelError
from raylora.model.bank.peft_trial import peft_trial
from raylora.model.base.load import base_on_meta
from raylora.spec.packing import why_alone
from raylora.spec.reading import method_names
from tests.contract import methods_by_base
from tests.contract.full_worker import WAYS
from tests.contract.methods_by_base import ONE_PROCESS, REFUSED_TYPES, WRITTEN_BY, numbers_in
from tests.contract.methods_page import (
    BANKS,
    BASES,
    IN_TESTS,
    METHODS,
    OBJECTIVES,
    OF_PEFT,
    PACKING,
    PLACES,
    REPOSITORY,
    TABLES,
    TESTS,
    Fields,
    fields_in,
    is_among,
    named,
    number_of,
    refusal,
    run_of,
)
from tests.contract.pack_worker import ON_NF4
from tests.contract.strategy_specs import HEADS
from tests.contract.strategy_worker import EVA, IN_PEFT, KINDS, ONE_RATE
from tests.reference.peft_types import ALL, TYPES, block_of
from tests.unit.model.tiny import tiny_config
from tests.unit.train.pack_run import EVERY, JUDGED, ON_INT8, QUANTIZED
from tests.unit.train.tiny_audio import TASK as RECORDINGS
from tests.unit.train.tiny_heads import MEMBERS as WITH_HEADS
from tests.unit.train.tiny_heads import QUANTIZED as QUANTIZED_WITH_HEADS
from tests.unit.train.tiny_heads import TASKS
from tests.unit.train.tiny_images import TASK as IMAGES
from tests.unit.train.tiny_seq2seq import FAMILIES as TWO_SIDED
from tests.unit.train.tiny_seq2seq import KINDS as WITH_TWO_SIDES

CELLS = {
    **{bank: set(product(METHODS, (*BASES, *PLACES))) for bank in BANKS},
    "in a pack": set(product(METHODS, (*BASES, *PLACES, "PEFT's bank"))),
    OF_PEFT: set(product(TYPES, (*BASES, *PLACES, "in a pack"))),
    "answers": set(product(OBJECTIVES, (*BASES, *PLACES, "in a pack", "PEFT's bank"))),
    "answers by method": set(product(METHODS, OBJECTIVES)),
    "head": set(product(HEADS, (*BASES, *PLACES, "in a pack", "PEFT's bank"))),
    "from source to target": set(product(TWO_SIDED, (*BASES, *PLACES, "in a pack", "PEFT's bank"))),
}


def test_no_cell_is_silent():
    assert METHODS.keys() == IN_TESTS.keys()
    for table, cells in CELLS.items():
        assert TABLES[table].keys() == cells, table
    used = {number_of(word) for table in CELLS for word in TABLES[table].values()}
    assert used - {None} == TESTS.keys()


def test_names_of_methods_stand_for_what_the_page_asks_for():
    names = {row: name for row, name in IN_TESTS.items() if method_names.is_name(name)}
    assert set(names.values()) == set(method_names.METHODS)
    for row, name in names.items():
        assert method_names.named(name, None) == {"adapter": "lora"} | METHODS[row]


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("method", METHODS)
def test_what_the_rules_refuse_is_refused_and_nothing_else(method: str, bank: str):
    cells = TABLES[bank]
    for base, place, objective in product(BASES, PLACES, (None, *OBJECTIVES)):
        asked = OBJECTIVES[objective] if objective else {}
        is_refused = refusal(METHODS[method], BANKS[bank], BASES[base], PLACES[place], asked) != ""
        words = [cells[method, base], cells[method, place]]
        words += [TABLES["answers by method"][method, objective]] if objective else []
        assert is_refused == ("refused" in words), (base, place, objective)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_share_a_base_is_alone(method: str):
    base = BASES["plain" if TABLES["in a pack"][method, "NF4"] == "refused" else "NF4"]
    on_base = {name: {**base, **place} for name, place in PLACES.items()}
    for column, fields in {**BASES, **on_base, "PEFT's bank": BANKS["PEFT's bank"]}.items():
        word = TABLES["in a pack"][method, column]
        assert (refusal(METHODS[method], fields) != "") == (word == "refused"), column
        if word != "refused":
            assert (why_alone(run_of(METHODS[method], fields)) is not None) == (word == "alone"), column


def test_the_page_by_base_is_what_follows():
    page = REPOSITORY / "docs" / "methods-by-base.md"
    assert page.read_text(encoding="utf-8") == methods_by_base.page(), f"run {WRITTEN_BY} > {page}"


def test_a_cell_by_base_is_refused_or_alone_where_the_rules_say_so():
    in_table: dict[str, Fields] = {**BANKS, "in a pack": BANKS["raylora's bank"], OF_PEFT: {}}
    ruled = {cell: word for cell, word in methods_by_base.cells().items() if cell[1] not in REFUSED_TYPES}
    for (table, row, base, column), word in ruled.items():
        asked: Fields = {"peft": block_of(row)} if table == OF_PEFT else METHODS[row]
        fields = [asked, in_table[table], BASES[base], *([] if column == ONE_PROCESS else [PLACES[column]])]
        assert (refusal(*fields) != "") == (word == "refused"), (table, row, base, column)
        if table == "in a pack" and word != "refused":
            assert (why_alone(run_of(*fields)) is not None) == (word == "alone"), (row, base, column)
        assert set(numbers_in(word)) <= TESTS.keys() and bool(numbers_in(word)) != (word in ("refused", "alone"))


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_of_pefts_is_refused_and_alone_where_the_rules_say_so(kind: str):
    block: Fields = {"peft": block_of(kind)}
    for column, fields in {**BASES, **PLACES}.items():
        assert (refusal(block, fields) != "") == (TABLES[OF_PEFT][kind, column] == "refused"), column
    assert why_alone(run_of(block)) is not None
    assert TABLES[OF_PEFT][kind, "in a pack"] == "alone"


def test_every_type_of_pefts_is_on_the_page_or_refused_with_a_reason():
    refused = {kind: words for (kind, _), words in TABLES["type"].items()}
    assert sorted([*TYPES, *refused]) == ALL
    for kind, words in refused.items():
        with pytest.raises(ModelError) as caught:
            peft_trial(
                base_on_meta(tiny_config(), run_of(), torch.float32), {"peft_type": kind, "target_modules": ["q_proj"]}
            )
        assert words in str(caught.value), kind


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_refused_where_the_rules_refuse_it(head: str):
    task = head.partition("-")[2]
    of_files = {"image_cls": {**IMAGES, "type": "image"}, "audio_cls": {**RECORDINGS, "type": "audio"}}
    of_task = {**TASKS, **of_files}[task]
    asked = {name: value for name, value in of_task.items() if name != "file"}
    asked["datasets"] = [{"path": "rows.jsonl", "type": asked.pop("type")}]
    for column, fields in {**BASES, **PLACES, "PEFT's bank": BANKS["PEFT's bank"]}.items():
        assert (refusal(asked, fields) != "") == (TABLES["head"][head, column] == "refused"), column
    assert TABLES["head"][head, "in a pack"] != "alone"


@pytest.mark.parametrize("family", TWO_SIDED)
def test_a_run_from_source_to_target_is_refused_where_the_rules_refuse_it(family: str):
    asked = {"task_type": "seq_2_seq_lm", "datasets": [{"path": "rows.jsonl", "type": "completion"}]}
    cells = TABLES["from source to target"]
    for column, fields in {**BASES, **PLACES, "PEFT's bank": BANKS["PEFT's bank"]}.items():
        assert (refusal(asked, fields) != "") == (cells[family, column] == "refused"), column
    assert cells[family, "in a pack"] != "alone"


@pytest.mark.parametrize("method", METHODS)
def test_kinds_that_are_said_to_go_with_heads_and_from_a_text_to_another_were_run_so(method: str):
    of_the_base = METHODS[method].get("adapter") == "full"
    assert is_among(method, [*WITH_HEADS, *QUANTIZED_WITH_HEADS]) != of_the_base
    assert is_among(method, WITH_TWO_SIDES.values()) == (not of_the_base and method != "EVA")


def test_reasons_are_the_errors_own_words():
    for (fields, _), words in TABLES["refused"].items():
        assert words in refusal(fields_in(fields)), fields
    for (fields, _), words in TABLES["alone"].items():
        assert words in (why_alone(run_of(fields_in(fields))) or ""), fields


@pytest.mark.parametrize(
    ("table", "columns", "members"),
    [
        ("in a pack", ["plain", "NF4"], [*EVERY, *QUANTIZED]),
        ("in a pack", ["int8"], ON_INT8),
        ("in a pack", PACKING, ON_NF4),
        ("raylora's bank", PACKING, [*KINDS.values(), *ON_NF4, *WAYS.values()]),
        ("raylora's bank", ["ZeRO-1", "ZeRO-2"], [EVA, *ONE_RATE.values(), *WAYS.values()]),
        ("PEFT's bank", PLACES, IN_PEFT.values()),
        ("answers by method", OBJECTIVES, [*JUDGED, *WAYS.values()]),
    ],
    ids=["pack", "pack-int8", "pack-of-two-workers", "two-workers", "two-workers-zero", "two-workers-peft", "answers"],
)
def test_a_method_is_said_to_be_tested_where_a_run_has_it(
    table: str, columns: Iterable[str], members: Iterable[Fields]
):
    for method, column in product(METHODS, columns):
        if TABLES[table][method, column] not in ("alone", "refused"):
            assert is_among(method, members), (method, column)


class Collected:
    """Names of the tests that a pytest has found, as its plugin."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = {item.nodeid for item in session.items}


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """Every test of the files that the page names; this process has imported them, or most of what they import."""
    files = sorted({str(REPOSITORY / test.partition("::")[0]) for test in TESTS.values()})
    without = [word for name in ("cacheprovider", "terminal", "xdist") for word in ("-p", f"no:{name}")]
    words = ["--collect-only", "--capture=no", f"--rootdir={REPOSITORY}", *without]
    found = Collected()
    assert pytest.main([*words, "-o", "addopts=--import-mode=importlib", *files], [found]) == pytest.ExitCode.OK
    return found.names


@pytest.mark.slow
@pytest.mark.parametrize("table", CELLS)
def test_each_test_that_is_named_is_there(table: str, collected: set[str]):
    for cell, word in TABLES[table].items():
        if (number := number_of(word)) is not None:
            assert named(TESTS[number], *cell) in collected, cell


@pytest.mark.slow
def test_each_test_of_a_cell_by_base_is_there(collected: set[str]):
    for (table, row, base, column), word in methods_by_base.cells().items():
        run, *of_strategy = numbers_in(word) or ("",)
        on_base = column if word.startswith("run") and column != ONE_PROCESS else base
        assert not run or named(TESTS[run], row, on_base, base) in collected, (table, row, base, column)
        assert not of_strategy or named(TESTS[of_strategy[0]], row, column) in collected, (table, row, base, column)


def test_a_wrong_cell_is_found():
    assert refusal({"adapter": "vera"}, BANKS["PEFT's bank"])
    assert not refusal({"adapter": "vera"})
    assert is_among("PiSSA by iterations", [{"init_lora_weights": "pissa_niter_2"}])
    assert not is_among("PiSSA by iterations", [{"init_lora_weights": "pissa"}, {"lora_r": 4}])
    assert named("t[packed-KIND-BASE]", "LoRA+", "NF4") == "t[packed-loraplus-nf4]"
    assert named("t[STRATEGY-KIND]", "VeRA", "ZeRO-3") == "t[zero3-vera]"
    assert named("t[STRATEGY-HELD]", "LoRA", "`ddp`") == "t[ddp-nf4]"
    assert named("t[STRATEGY-HELD]", "LoRA", "`ddp`", "plain") == "t[ddp-none]"
    assert numbers_in("from 3 and 9") == ("3", "9") and numbers_in("run (41)") == ("41",) and not numbers_in("alone")
    with pytest.raises(AssertionError):
        number_of("tested")
