"""The rows of one source become a file of tokens.

Enters: a Source and how its rows are encoded. Leaves: an Arrow file with one line for each row of the source, in its
order, whatever became of the row, or of a row that was split one for each piece. Rows stream through Arrow files on
disk, so a source may be larger than memory; `datasets` spreads the work over processes. Called by prepare.
"""

from __future__ import annotations

import enum
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylora.data.sources.examples import ClassifiedFile, Example
from raylora.data.sources.rows import read_row
from raylora.data.sources.source import Source
from raylora.data.tokens.encode import Encoded
from raylora.data.tokens.row_files import with_content
from raylora.errors import DataError
from raylora.spec.fields.data import ExcessLength

_BATCH_CHARACTERS = 4 << 20  # of raw rows: each may be an image in base64
_BATCH_ROWS = 500
_BATCH_FILES = 16  # of images of 3 x 224 x 224 pixels, 10 MB
_BATCH_SPLIT = 32  # of texts that are kept whole, be they books: as numbers of Python, 5 MB each
_RAW = pa.schema([("file", pa.int32()), ("number", pa.int64()), ("row", pa.large_string())])
_TOKENS = pa.schema(
    [
        *(("file", pa.int32()), ("number", pa.int64()), ("fate", pa.int8())),
        *(("content", pa.int64()), ("num_labels", pa.int32())),
        *(("input_ids", pa.list_(pa.int32())), ("is_label", pa.list_(pa.uint8()))),
        *(("split_at", pa.int32()), ("is_desirable", pa.uint8()), ("classes", pa.list_(pa.int32()))),
        *(("values", pa.list_(pa.float32())), ("shape", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32()))),
    ]
)


_RawRow = tuple[int, int, str]
"""Index of the file, number of the row in it, and the row as JSON text."""


class RowEncoder(Protocol):
    """What makes tokens and labels of an example: `encode` and `labelled` have one each."""

    def encode(self, example: Example) -> Encoded:
        """Encode one example.

        Raises:
            DataError: It cannot be.
        """


class Fate(enum.IntEnum):
    """What became of a row."""

    KEPT = 0
    TRUNCATED = 1
    TOO_LONG = 2
    """Longer than `sequence_len`, and dropped or refused."""
    CUT_EMPTY = 3
    """Truncation left no token with loss; dropped."""
    NO_LABELS = 4
    """The row never had a token with loss; refused."""
    SPLIT = 5
    """Longer than `sequence_len`, and cut into pieces; of the first one."""
    PIECE = 6
    """Of each further piece of a row that was split."""


USED = (Fate.KEPT, Fate.TRUNCATED, Fate.SPLIT, Fate.PIECE)
"""Of what is trained or validated on."""


class _Line(NamedTuple):
    """What becomes of a row or of a piece of it; `content` tells rows with other contents apart."""

    file: int
    number: int
    fate: Fate
    content: int
    encoded: Encoded


@dataclass(frozen=True)
class RowTokeniser:
    """Turns raw rows into tokens within the length limit.

    Args:
        encoder: Encodes one example.
        source: Where the rows are from; errors name file and line.
        sequence_len: Longest row in tokens.
        excess: What becomes of a longer row; only texts may be split.
    """

    encoder: RowEncoder
    source: Source
    sequence_len: int
    excess: ExcessLength

    def __call__(self, raw: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Tokenise one batch of raw rows, column by column, as `Dataset.map` asks."""
        cells = zip(raw["file"], raw["number"], raw["row"], strict=True)
        lines = [line for of_row in cells for line in self._lines(*of_row)]
        rows = [line.encoded for line in lines]
        return {
            "file": [line.file for line in lines],
            "number": [line.number for line in lines],
            "fate": [int(line.fate) for line in lines],
            "content": [line.content for line in lines],
            "num_labels": [encoded.num_labels for encoded in rows],
            "input_ids": [encoded.input_ids for encoded in rows],
            "is_label": [encoded.is_label for encoded in rows],
            "split_at": [encoded.split_at for encoded in rows],
            "is_desirable": [encoded.is_desirable for encoded in rows],
            "classes": [list(encoded.classes) for encoded in rows],
            "values": [_flat(encoded.values) for encoded in rows],
            "shape": [[] if encoded.values is None else list(encoded.values.shape) for encoded in rows],
            "weights": [list(encoded.weights) for encoded in rows],
        }

    def _lines(self, file: int, number: int, text: str) -> list[_Line]:
        """Pieces of one row have its content, so that they stay on one side of a split."""
        encoded = self._encoded(file, number, text)
        fate, kept = self._fit(encoded)
        if fate == Fate.SPLIT:
            content, pieces = _content_key(encoded), encoded.pieces(self.sequence_len)
            return [_Line(file, number, Fate.PIECE if at else fate, content, each) for at, each in enumerate(pieces)]
        kept = kept if fate in USED else Encoded([], [])
        return [_Line(file, number, fate, _content_key(kept), kept)]

    def _encoded(self, file: int, number: int, text: str) -> Encoded:
        try:
            example = read_row(_parsed(text), self.source.spec.type, self.source.spec.columns)
            if isinstance(example, ClassifiedFile):
                example = with_content(example, self.source.folder(file))
            return self.encoder.encode(example)
        except RecursionError as error:
            raise DataError(f"{self.source.place(file, number)}: nested too deeply: {text[:60]!r}") from error
        except DataError as error:
            raise DataError(f"{self.source.place(file, number)}: {error}") from error

    def _fit(self, encoded: Encoded) -> tuple[Fate, Encoded]:
        if not encoded.learns:
            return Fate.NO_LABELS, encoded
        if len(encoded.input_ids) <= self.sequence_len or encoded.values is not None:
            return Fate.KEPT, encoded
        if self.excess != "truncate":
            return (Fate.SPLIT if self.excess == "split" else Fate.TOO_LONG), encoded
        cut = encoded.cut(self.sequence_len)
        return (Fate.TRUNCATED if cut.learns else Fate.CUT_EMPTY), cut


def tokenise(rows: RowTokeniser, folder: Path, num_proc: int) -> None:
    """Write a source's tokens into a folder; `tokens_table` reads them.

    Args:
        rows: The source and how its rows are encoded.
        folder: An empty folder.
        num_proc: Processes that tokenise.

    Raises:
        DataError: The source is empty, or one of its rows cannot be read or encoded.
    """
    # Imported where rows are not in the cache yet: a worker that finds them there does not wait for it.
    import datasets

    raw_file = folder / "raw.arrow"
    if not _write_raw(rows.source.read(), raw_file):
        raise DataError(f"datasets: {rows.source.spec.path}: holds no rows; fill it, or take it out of datasets")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    raw = datasets.Dataset.from_file(str(raw_file))
    is_of_files = rows.source.spec.type in ("image", "audio")
    batch_rows = _BATCH_FILES if is_of_files else _BATCH_SPLIT if rows.excess == "split" else _BATCH_ROWS
    raw.map(
        rows,
        batched=True,
        batch_size=batch_rows,
        remove_columns=["row"],
        features=datasets.Features.from_arrow_schema(_TOKENS),
        num_proc=num_proc if num_proc > 1 else None,
        cache_file_name=str(folder / "tokens.arrow"),
        load_from_cache_file=False,
        # The folder's name says what the tokens depend on; without this, `datasets` would hash the tokenizer.
        new_fingerprint="tokens",
        desc=f"tokenise {rows.source.spec.path}",
    )
    raw_file.unlink()


def tokens_table(folder: Path) -> pa.Table:
    """Open a folder that `tokenise` filled; the table is memory-mapped, not read."""
    return pa.concat_tables(
        pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in sorted(folder.glob("tokens*.arrow"))
    )


def _write_raw(rows: Iterable[_RawRow], file: Path) -> int:
    num_rows = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, _RAW) as writer:
        for batch in _batches(rows):
            columns = [pa.array(cells, field.type) for cells, field in zip(zip(*batch, strict=True), _RAW, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=_RAW))
            num_rows += len(batch)
    return num_rows


def _batches(rows: Iterable[_RawRow]) -> Iterator[list[_RawRow]]:
    """As many rows at a time as fit into memory, or one that is longer."""
    batch, num_characters = list[_RawRow](), 0
    for row in rows:
        batch.append(row)
        num_characters += len(row[2])
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno}): {text[:60]!r}") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"not JSON that can be read ({error}): {text[:60]!r}") from error


def _content_key(encoded: Encoded) -> int:
    """64 bits that tell rows with other contents apart, so that equal rows can be kept on one side of a split."""
    content = np.asarray(encoded.input_ids, dtype=np.int32) if encoded.values is None else encoded.values
    digest = hashlib.blake2b(content.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _flat(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32) if values is None else values.ravel()
