"""What became of the rows of each source, for people, MLflow and the run's lineage.

Enters: a source and its tokens. Leaves: counts. Called by prepare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylora.data.sources.source import Source
from raylora.data.tokens.tokenise import USED, Fate
from raylora.data.tokens.tokenised import TokenisedRows

NUM_NAMED_ROWS = 5
"""Rows that are named where many met the same fate."""


@dataclass(frozen=True)
class SourceReport:
    """Counts of one source.

    Args:
        path: The dataset's path as the user wrote it.
        digest: SHA-256 over the source's content.
        num_rows: Rows in the source.
        num_kept: Rows of the source that are trained or validated on.
        num_tokens: Tokens of the rows kept.
        num_label_tokens: Those of them with loss.
        num_truncated: Rows kept that were cut at `sequence_len`.
        num_dropped_long: Rows dropped because they are longer.
        num_dropped_empty: Rows dropped because what was cut off held every token with loss.
        dropped_empty: Where the first few of these are.
        num_split: Rows kept that became several, of at most `sequence_len` tokens each.
        num_pieces: What they became: each is a row from here on.
    """

    path: str
    digest: str
    num_rows: int
    num_kept: int
    num_tokens: int
    num_label_tokens: int
    num_truncated: int
    num_dropped_long: int
    num_dropped_empty: int
    dropped_empty: tuple[str, ...] = ()
    num_split: int = 0
    num_pieces: int = 0

    def __str__(self) -> str:
        split = f"; {self.num_split:,} rows split into {self.num_pieces:,} pieces" if self.num_split else ""
        named = f": {named_rows(self.dropped_empty, self.num_dropped_empty)}" if self.dropped_empty else ""
        return (
            f"{self.path}: {self.num_kept:,} of {self.num_rows:,} rows, {self.num_tokens:,} tokens "
            f"({self.num_label_tokens:,} with loss); {self.num_truncated:,} rows truncated, {self.num_dropped_long:,} "
            f"dropped as too long, {self.num_dropped_empty:,} dropped as truncation left them no token with loss"
            f"{named}{split}"
        )


@dataclass(frozen=True)
class DataReport:
    """Counts of all sources.

    Args:
        train: Sources of training rows.
        validation: Sources of validation rows; empty where they are split off the training rows.
        num_train_rows: Training rows after the split.
        num_validation_rows: Validation rows after the split.
        num_shared: Training rows left out because the validation rows have the same tokens.
    """

    train: tuple[SourceReport, ...]
    validation: tuple[SourceReport, ...]
    num_train_rows: int
    num_validation_rows: int
    num_shared: int

    @property
    def digest(self) -> str:
        """SHA-256 over the content of all sources; which of their rows a run sees, and how, its spec says beside it."""
        content = repr([[source.digest for source in sources] for sources in (self.train, self.validation)])
        return hashlib.sha256(content.encode()).hexdigest()


def report_source(source: Source, rows: TokenisedRows) -> SourceReport:
    """Count what became of the rows of one source.

    Args:
        source: The source.
        rows: All its rows.
    """
    fate_of = rows.column("fate")
    fates = np.bincount(fate_of, minlength=len(Fate))
    return SourceReport(
        path=source.spec.path,
        digest=source.digest,
        num_rows=len(rows) - int(fates[Fate.PIECE]),
        num_kept=int(fates[list(USED)].sum() - fates[Fate.PIECE]),
        num_tokens=int(rows.lengths.sum()),
        num_label_tokens=int(rows.column("num_labels")[rows.lengths > 0].sum()),
        num_truncated=int(fates[Fate.TRUNCATED]),
        num_dropped_long=int(fates[Fate.TOO_LONG]),
        num_dropped_empty=int(fates[Fate.CUT_EMPTY]),
        dropped_empty=first_places(rows, np.flatnonzero(fate_of == Fate.CUT_EMPTY)),
        num_split=int(fates[Fate.SPLIT]),
        num_pieces=int(fates[Fate.SPLIT] + fates[Fate.PIECE]),
    )


def first_places(rows: TokenisedRows, which: NDArray[np.intp]) -> tuple[str, ...]:
    """Say where the first few of some rows are: file and line.

    Args:
        rows: All rows.
        which: Indices of those that are meant.
    """
    return tuple(rows.place(int(row)) for row in which[:NUM_NAMED_ROWS])


def named_rows(places: Sequence[str], num_rows: int) -> str:
    """Name rows in a sentence.

    Args:
        places: As of `first_places`.
        num_rows: How many there are.
    """
    more = f" and {num_rows - len(places):,} more" if num_rows > len(places) else ""
    return f"{'; '.join(places)}{more}"
