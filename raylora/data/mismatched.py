"""Prompts with the completions of other rows: what a run under KTO tells its distance from the reference by.

Tokenised rows enter, with who takes whose completion; texts leave, as rows of their own. Nothing is tokenised again: a
row's prompt is what comes before its first learned token. Called by batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raylora.data.tokens.tokenised import LabelledText, Positions, TokenisedRows, next_tokens


@dataclass(frozen=True, eq=False)
class Mismatched:
    """Each of some rows with the completion of another; a *position* numbers them from 0.

    Args:
        rows: All rows.
        prompts: Positions there of the rows whose prompts these are.
        completions: Positions there of the rows whose completions follow them; as many.
        sequence_len: Longest text in tokens; one that is longer is cut at its end, whatever becomes of long rows.
    """

    rows: TokenisedRows
    prompts: Positions
    completions: Positions
    sequence_len: int

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def row_ids(self) -> Positions:
        """The rows whose prompts these are."""
        return self.rows.row_ids[self.prompts]

    @cached_property
    def is_desirable(self) -> NDArray[np.bool_]:
        """As of the rows whose prompts these are; nobody asks."""
        return self.rows.is_desirable[self.prompts]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each."""
        num_prompt = np.array([self._start(row) for row in self.prompts], dtype=np.int64)
        num_before = np.array([self._start(row) for row in self.completions], dtype=np.int64)
        num_tokens = num_prompt + self.rows.lengths[self.completions] - num_before
        cut: NDArray[np.int64] = np.minimum(num_tokens, self.sequence_len)
        return cut

    def labelled(self, position: int) -> list[LabelledText]:
        """The one text of a position."""
        start, start_other = self._start(self.prompts[position]), self._start(self.completions[position])
        given, given_labels = self.rows.tokens(self.prompts[position])
        other, other_labels = self.rows.tokens(self.completions[position])
        ids_T = np.concatenate([given[:start], other[start_other:]])[: self.sequence_len]
        is_label_T = np.concatenate([given_labels[:start], other_labels[start_other:]])[: self.sequence_len]
        return [(ids_T, next_tokens(ids_T, is_label_T))]

    def _start(self, row: int) -> int:
        """Tokens before the first that is learned."""
        _, is_label_T = self.rows.tokens(row)
        return int(is_label_T.argmax())
