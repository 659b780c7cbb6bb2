"""Rows in tokens, memory-mapped.

Enters: the tables that tokenise wrote, one a source. Leaves: the tokens of one row at a time, and the lengths of all
of them at once. Called by prepare (which selects), batches (which reads) and whoever names a row in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylora.data.sources.source import Source
from raylora.spec.fields.labels import IGNORED

Positions = NDArray[np.int64]
Text = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids, and for each token whether the loss is counted on it. Shapes: [T], [T]."""
LabelledText = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Token ids, and the label at each token: the next token, or a class, or `IGNORED`. Shapes: [T], [T]."""
SPLIT_AT = "split_at"
"""Column of where a row's second text starts, 0 where it has one; a table whose rows all have one may be without."""
DESIRABLE = "is_desirable"
"""Column of whether a row's answer is desirable; a table whose rows are not rated may be without."""
CLASSES = "classes"
"""Column of the class of each token with loss; empty, or not there, where the tokens themselves are learned."""
VALUES, SHAPE = "values", "shape"
"""Columns of what goes into the model where token ids do not; empty, or not there, where ids do."""
WEIGHTS = "weights"
"""Column of how much each token counts in the loss, or whether it is of the answer that a pair is judged by; empty, or
not there, where all count in full."""


@dataclass(frozen=True, eq=False)  # one is itself alone, so that what is made of it can be kept by it
class TokenisedRows:
    """A selection of the rows of one or more sources.

    A *row id* numbers all rows of all sources, source after source, dropped ones too: it stays the same whatever is
    selected. A *position* numbers the selected rows from 0.

    Args:
        sources: The sources.
        tables: The tokens of each source, one line a row of the source, or a piece of one that was split.
        row_ids: The selected rows.
    """

    sources: tuple[Source, ...]
    tables: tuple[pa.Table, ...]
    row_ids: Positions

    @classmethod
    def of(cls, sources: Sequence[Source], tables: Sequence[pa.Table]) -> TokenisedRows:
        """All rows of some sources.

        Args:
            sources: The sources.
            tables: The tokens of each source, in the same order.
        """
        num_rows = sum(table.num_rows for table in tables)
        return cls(tuple(sources), tuple(tables), np.arange(num_rows, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.row_ids)

    def select(self, positions: NDArray[np.integer] | NDArray[np.bool_]) -> TokenisedRows:
        """Keep some positions, or those where a mask is true."""
        return TokenisedRows(self.sources, self.tables, self.row_ids[positions])

    def by_source(self) -> list[tuple[Source, TokenisedRows]]:
        """Each source that has selected rows, and those."""
        parts = [self.select(self.source_of == at) for at in range(len(self.sources))]
        return [(source, part) for source, part in zip(self.sources, parts, strict=True) if len(part)]

    def column(self, name: str) -> NDArray[np.int64]:
        """One number for each selected row: `fate`, `content`, `num_labels` or `is_desirable`."""
        whole = np.concatenate([table.column(name).to_numpy() for table in self.tables])
        return whole[self.row_ids].astype(np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each selected row."""
        whole = np.concatenate([pc.list_value_length(table.column("input_ids")).to_numpy() for table in self.tables])
        return whole[self.row_ids].astype(np.int64)

    @cached_property
    def source_of(self) -> NDArray[np.int64]:
        """Index of each selected row's source."""
        return np.searchsorted(self._starts, self.row_ids, side="right") - 1

    @cached_property
    def is_desirable(self) -> NDArray[np.bool_]:
        """Whether each selected row's answer is desirable; false where rows are not rated."""
        if any(DESIRABLE not in table.column_names for table in self.tables):
            return np.zeros(len(self), dtype=np.bool_)
        return self.column(DESIRABLE).astype(np.bool_)

    @cached_property
    def has_weights(self) -> bool:
        """Whether labels of any row, selected or not, count otherwise than in full; batches ask before they look."""
        beside = [table.column(WEIGHTS) for table in self.tables if WEIGHTS in table.column_names]
        return any(pc.sum(pc.list_value_length(weights)).as_py() for weights in beside)

    @property
    def weights(self) -> list[float]:
        """How often an epoch shows the rows of each source."""
        return [source.spec.weight for source in self.sources]

    def tokens(self, position: int) -> Text:
        """A row's tokens; of a pair those of both texts."""
        table, line = self._line(int(self.row_ids[position]))
        input_ids = table.column("input_ids")[line].values.to_numpy()
        return input_ids, table.column("is_label")[line].values.to_numpy().astype(np.bool_)

    def texts(self, position: int) -> list[Text]:
        """As `tokens`, but of a pair each of its two texts by itself."""
        ids_T, is_label_T = self.tokens(position)
        table, line = self._line(int(self.row_ids[position]))
        split_at = table.column(SPLIT_AT)[line].as_py() if SPLIT_AT in table.column_names else 0
        if not split_at:
            return [(ids_T, is_label_T)]
        return [(ids_T[:split_at], is_label_T[:split_at]), (ids_T[split_at:], is_label_T[split_at:])]

    def labelled(self, position: int) -> list[LabelledText]:
        """Each text of a row with its labels."""
        table, line = self._line(int(self.row_ids[position]))
        classes = table.column(CLASSES)[line].values.to_numpy() if CLASSES in table.column_names else ()
        if not len(classes):
            return [(ids_T, next_tokens(ids_T, is_label_T)) for ids_T, is_label_T in self.texts(position)]
        found = []
        for ids_T, is_label_T in self.texts(position):
            labels_T = np.full(len(ids_T), IGNORED, dtype=np.int64)
            num_labels = int(is_label_T.sum())
            labels_T[is_label_T], classes = classes[:num_labels], classes[num_labels:]
            found.append((ids_T, labels_T))
        return found

    def values(self, position: int) -> NDArray[np.float32] | None:
        """What goes into the model where token ids do not, such as an image's pixels; ``None`` where ids do."""
        table, line = self._line(int(self.row_ids[position]))
        if SHAPE not in table.column_names or not (shape := table.column(SHAPE)[line].as_py()):
            return None
        found: NDArray[np.float32] = table.column(VALUES)[line].values.to_numpy().reshape(shape)
        return found

    def label_weights(self, position: int) -> NDArray[np.float32] | None:
        """How much the label at each token of a row counts; ``None`` where all count in full. Shape: [T]."""
        table, line = self._line(int(self.row_ids[position]))
        if not self.has_weights or WEIGHTS not in table.column_names:
            return None
        weights_T = table.column(WEIGHTS)[line].values.to_numpy()
        return np.append(weights_T[1:], np.float32(0)) if len(weights_T) else None

    def place(self, row_id: int) -> str:
        """Say where a row is from, for people: ``rows.jsonl, line 7``."""
        table, line = self._line(row_id)
        source = self.sources[int(np.searchsorted(self._starts, row_id, side="right")) - 1]
        return source.place(table.column("file")[line].as_py(), table.column("number")[line].as_py())

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Row id of each source's first row."""
        return np.cumsum([0, *(table.num_rows for table in self.tables[:-1])])

    def _line(self, row_id: int) -> tuple[pa.Table, int]:
        source = int(np.searchsorted(self._starts, row_id, side="right")) - 1
        return self.tables[source], row_id - int(self._starts[source])


def next_tokens(ids_T: NDArray[np.int32], is_label_T: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The label at each token of a text: the token after it where the loss is counted on that one.

    Args:
        ids_T: Token ids.
        is_label_T: For each token, whether the loss is counted on it; the first has nothing before it.

    Shapes:
        ids_T, is_label_T: (T,). Returns (T,).
    """
    labels_T = np.full(len(ids_T), IGNORED, dtype=np.int64)
    labels_T[:-1] = np.where(is_label_T[1:], ids_T[1:], IGNORED)
    return labels_T
