"""A file becomes raw rows: JSONL, JSON, CSV, Parquet or Arrow.

Enters: a local file and the name to say in errors. Leaves: one (number, JSON text) a row, streamed, so that a
file may be larger than memory. JSON text keeps rows of any shape (tools, nested arguments) as they were written,
where a column type would merge them. Called by source.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylora.data.sources.json_array import array_items
from raylora.data.sources.utf8 import check_utf8
from raylora.errors import DataError

RawRow = tuple[int, str]

_BATCH_ROWS = 1000
_LONGEST_CELL_CHARS = 1 << 30


def read_rows(file: Path, name: str, ending: str) -> Iterator[RawRow]:
    """Yield the rows of one file in order.

    Args:
        file: The local file.
        name: What to call it in errors.
        ending: Its format, one of the keys of ``FORMATS``.

    Yields:
        The line (JSONL, CSV) or row (other formats), counted from 1, and the row as JSON text. Lines of JSONL are
        passed on unparsed: whoever parses them finds what is malformed.

    Raises:
        DataError: The file is not in its format or, where it is text, not UTF-8.
    """
    yield from FORMATS[ending](file, name)


def place_of(name: str, ending: str, number: int) -> str:
    """Say where a row is, for people: ``rows.jsonl, line 7``.

    Args:
        name: What errors call the file.
        ending: Its format, one of the keys of ``FORMATS``.
        number: Line or row, from 1, as `read_rows` gives it.
    """
    return f"{name}, {'line' if ending in ('.jsonl', '.csv') else 'row'} {number}"


def to_json(row: Any) -> str:
    """Write a row as JSON text; values JSON has no word for (dates) become their text, and bytes base64."""
    return json.dumps(row, ensure_ascii=False, default=_text_of)


def _text_of(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def drop_nones(row: dict[str, Any]) -> dict[str, Any]:
    """Drop the nested keys that a column format added: there every row has every key of every other row."""
    return {column: _without_nones(value) for column, value in row.items()}


def _without_nones(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    return [_without_nones(item) for item in value] if isinstance(value, list) else value


def _read_jsonl(file: Path, name: str) -> Iterator[RawRow]:
    check_utf8(file, name)
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip():
                yield number, text


def _read_json(file: Path, name: str) -> Iterator[RawRow]:
    check_utf8(file, name)
    with open(file, encoding="utf-8-sig") as stream:
        start = next((char for char in iter(lambda: stream.read(1), "") if not char.isspace()), "")
        if start == "[":
            yield from enumerate(array_items(stream.read, name), start=1)
        elif start:
            yield from _read_jsonl(file, name)


def _read_csv(file: Path, name: str) -> Iterator[RawRow]:
    check_utf8(file, name)
    csv.field_size_limit(_LONGEST_CELL_CHARS)
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    cells = sum(value is not None for key, value in row.items() if key is not None)
                    got = f"only {cells}" if None not in row else "more"
                    header = reader.fieldnames or []
                    raise DataError(f"{name}, line {reader.line_num}: the header names {len(header)} cells, got {got}")
                yield reader.line_num, to_json(row)
        except csv.Error as error:
            raise DataError(f"{name}, line {reader.line_num}: not CSV ({error})") from error


def _read_parquet(file: Path, name: str) -> Iterator[RawRow]:
    try:
        yield from _rows_of(pq.ParquetFile(file, memory_map=True).iter_batches(batch_size=_BATCH_ROWS))
    except (pa.ArrowException, OSError, ValueError) as error:  # damaged pages are told as one of the latter
        raise DataError(f"{name}: not a Parquet file that can be read ({error})") from error


def _read_arrow(file: Path, name: str) -> Iterator[RawRow]:
    with pa.memory_map(str(file)) as source:
        try:
            yield from _rows_of(_arrow_batches(source))
        except (pa.ArrowException, OSError, ValueError) as error:  # damaged streams are told as one of the latter
            raise DataError(f"{name}: not an Arrow file that can be read ({error})") from error


def _arrow_batches(source: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    """Batches of either Arrow layout: `datasets` writes streams, Feather files are random access."""
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if is_file:
        reader = pa.ipc.open_file(source)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(source)


def _rows_of(batches: Iterator[pa.RecordBatch]) -> Iterator[RawRow]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # offsets of a damaged file would lead out of its memory
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield number, to_json(drop_nones(row))


FORMATS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""Reader of each format, by the ending of the file's name."""
