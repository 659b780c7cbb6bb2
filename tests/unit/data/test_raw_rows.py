"""Raw rows on their way to the tokeniser: all of them, in order, and few at a time where they are long."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raylora.data.tokens.tokenise import _write_raw

MIB = 1 << 20


def written(file: Path, texts: list[str]) -> list[pa.RecordBatch]:
    rows = [(0, number, text) for number, text in enumerate(texts, start=1)]
    assert _write_raw(iter(rows), file) == len(rows)
    with pa.ipc.open_stream(pa.OSFile(str(file))) as stream:
        batches = list(stream)
    cells = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert cells == rows
    return batches


@pytest.mark.parametrize("row_bytes", [MIB, 3 * MIB, 9 * MIB])
def test_long_rows_are_written_few_at_a_time(tmp_path: Path, row_bytes: int):
    """As of images in base64: hundreds of them at once would be gigabytes."""
    batches = written(tmp_path / "raw.arrow", [chr(97 + at) * row_bytes for at in range(12)])
    assert max(batch.nbytes for batch in batches) < max(row_bytes, 4 * MIB) + row_bytes


def test_short_rows_are_written_many_at_a_time(tmp_path: Path):
    assert len(written(tmp_path / "raw.arrow", [f"row {at}" for at in range(20_000)])) == 1


def test_no_row_is_none(tmp_path: Path):
    assert written(tmp_path / "raw.arrow", []) == []
