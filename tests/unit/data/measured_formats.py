"""Run by a test: reads a small and a large file of each ending and prints, for each, the most memory that took.

One process reads them all: what an earlier file left is far less than what a reader that holds its rows would add.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raylora.data.sources.formats import read_rows
from raylora.train.memory import PeakMemory

CPU = torch.device("cpu")
TEXT = "x" * 8000
ROWS_AT_ONCE = 500
"""In a row group of Parquet and a batch of Arrow."""
SCHEMA = pa.schema([("text", pa.string())])

Row = dict[str, str]


def write_jsonl(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w") as out:
        out.writelines(f"{json.dumps(row)}\n" for row in rows)


def write_json(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w") as out:
        out.write("[")
        out.writelines(f"{',' if number else ''}{json.dumps(row)}" for number, row in enumerate(rows))
        out.write("]")


def write_csv(file: Path, rows: Iterable[Row]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, SCHEMA.names)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(file: Path, rows: Iterable[Row]) -> None:
    with pq.ParquetWriter(file, SCHEMA, use_dictionary=False) as out:
        for table in tables(rows):
            out.write_table(table)


def write_arrow(file: Path, rows: Iterable[Row]) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as out:
        for table in tables(rows):
            out.write_table(table)


def tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    rows = iter(rows)
    while part := list(islice(rows, ROWS_AT_ONCE)):
        yield pa.Table.from_pylist(part, SCHEMA)


WRITERS: dict[str, Callable[[Path, Iterable[Row]], None]] = {
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
}


def reading(file: Path, num_rows: int) -> tuple[int, int]:
    """Peak, and rows read, of a file of so many rows."""
    WRITERS[file.suffix](file, ({"text": f"{number} {TEXT}"} for number in range(num_rows)))
    with PeakMemory(CPU) as peak:
        num_read = sum(1 for _ in read_rows(file, file.name, file.suffix))
    file.unlink()
    return peak.peak_bytes - peak.start_bytes, num_read


if __name__ == "__main__":
    place, *sizes = sys.argv[1:]
    nums_rows = [int(size) // len(TEXT) for size in sizes]
    print(json.dumps({ending: [reading(Path(place, f"rows{ending}"), n) for n in nums_rows] for ending in WRITERS}))
