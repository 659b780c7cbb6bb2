"""Files of rows: what is read, and what is said about files that cannot be."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.data.sources.formats import FORMATS, read_rows
from raylora.data.sources.json_array import array_items
from raylora.errors import DataError

ROWS = [{"text": "one\ntwo", "n": 1}, {"text": 'é "quoted", 🙂', "n": 2}, {"text": "", "n": 3}]
TEXT = st.text(st.sampled_from('ab\\"[]{},: \n\u2028é🙂'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def rows_of(file: Path) -> list[Any]:
    return [json.loads(text) for _, text in read_rows(file, file.name, file.suffix)]


def wrong(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(file)
    return str(caught.value)


def write(file: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    match file.name:
        case "rows.jsonl":
            file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
        case "lines.json":
            file.write_text("".join(f"{json.dumps(row)}\r\n" for row in ROWS), encoding="utf-8")
        case "array.json":
            file.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8-sig")
        case "rows.csv":
            with open(file, "w", encoding="utf-8-sig", newline="") as stream:
                writer = csv.DictWriter(stream, ["text", "n"])
                writer.writeheader()
                writer.writerows(ROWS)
        case "rows.parquet":
            pa.parquet.write_table(table, file, row_group_size=2)
        case "stream.arrow":
            with pa.ipc.new_stream(str(file), table.schema) as stream:
                stream.write_table(table, max_chunksize=2)
        case "file.arrow":
            pa.feather.write_feather(table, str(file), compression="uncompressed")


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "lines.json", "array.json", "rows.csv", "rows.parquet", "stream.arrow", "file.arrow"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str):
    write(tmp_path / name)
    # A CSV file has text alone.
    expected = [{**row, "n": str(row["n"])} for row in ROWS] if name.endswith(".csv") else ROWS
    assert rows_of(tmp_path / name) == expected


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [number for number, _ in read_rows(file, "rows.jsonl", ".jsonl")] == [2, 4]


def test_keys_that_a_column_format_adds_are_dropped_again(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    calls = [{"messages": [{"role": "user", "content": "q"}]}, {"messages": [{"role": "tool", "name": "f"}]}]
    pa.parquet.write_table(pa.Table.from_pylist([*calls, {"messages": None}]), file)
    assert rows_of(file) == [*calls, {"messages": None}]


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6), st.integers(1, 7), st.sampled_from([None, 1]))
def test_an_array_read_in_pieces_is_the_array(rows: list[dict[str, Any]], chars: int, indent: int | None):
    """Whatever the chunks are: at least as much is read as asked for, so short reads stand for long rows."""
    stream = io.StringIO(json.dumps(rows, indent=indent, ensure_ascii=False).lstrip()[1:])
    items = array_items(lambda _: stream.read(chars), "rows.json")
    assert [json.loads(item) for item in items] == rows


@pytest.mark.parametrize("content", ["[{}", "[{},", '[{"a": "b', "[{} {}]", "[,{}]", "[{},]", '[{}, {"a" 1}]'])
def test_a_malformed_array_names_its_row(tmp_path: Path, content: str):
    file = tmp_path / "rows.json"
    file.write_text(content)
    number = 1 if content in ("[,{}]", '[{"a": "b') else 2
    assert f"rows.json, row {number}: " in wrong(file)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_byte_that_is_not_utf8_is_placed(tmp_path: Path, name: str):
    file = tmp_path / name
    # A character that the reader's chunks cut in two comes before, and the wrong byte after more than one chunk.
    start = "a" * ((1 << 20) - 1) + "é\n" + "b" * (1 << 20) + "\nc"
    file.write_bytes(start.encode() + b"\xe9\n")
    said = wrong(file)
    assert f"{name}, line 3: not UTF-8 (byte 0xe9 at offset {len(start.encode()):,})" in said
    assert "iconv" in said


def test_a_character_cut_at_the_files_end_is_not_utf8(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"a": "é'.encode()[:-1])
    assert "line 1: not UTF-8 (byte 0xc3 at offset 7)" in wrong(file)


@pytest.mark.parametrize(
    ("row", "said"),
    [("1,2,3", "the header names 2 cells, got more"), ("1", "got only 1"), ('1,"2', "not CSV")],
)
def test_a_csv_row_that_does_not_fit_names_its_line(tmp_path: Path, row: str, said: str):
    file = tmp_path / "rows.csv"
    file.write_text(f"a,b\n1,2\n{row}\n")
    assert "rows.csv, line " in wrong(file)
    assert said in wrong(file)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"neither of them")
    assert wrong(tmp_path / name).startswith(f"{name}: not ")


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {".parquet", ".arrow"}))
def test_an_empty_file_has_no_rows(tmp_path: Path, ending: str):
    file = tmp_path / f"rows{ending}"
    file.write_text("")
    assert rows_of(file) == []
