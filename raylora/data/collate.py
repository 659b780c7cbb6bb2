"""Rows become one padded batch of tensors, and the mask that keeps them apart.

Enters: groups of rows (one, or the rows of a bin). Leaves: a Batch. Called by batches; `attention_mask` for bases
that do not attend by rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raylora.data.mismatched import Mismatched
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.spec.fields.labels import IGNORED

PADDING = -1
"""In the place of a row's number."""

# One token alone takes other kernels (4-bit matrix times vector), so a batch of nothing has a few.
_FILLER_TOKENS = 8


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Args:
        input_ids_BT: Token ids, padded at the end.
        labels_BT: The id of the *next* token at each position, or -100 where there is no loss: already shifted
            within each row, so that no row predicts another's first token. Of tasks with a head, the class of the
            token at the position, or of its text.
        position_ids_BT: Position of each token in its own row; padding counts on from the last row's.
        segment_ids_BT: 1, 2, ... for the texts of a line; 0 for padding.
        row_ids: The row of each text of each line, none for a line of padding. A pair's two texts are of one row.
        is_desirable: Of each text, line by line, whether it is a desirable answer; false where rows are not rated.
        values: What goes into the model where token ids do not, line by line: pixels (B, C, H, W),
            or spectrograms (B, T, F).
        weights_BT: How much each label counts in the loss, above 0 to 1; ``None`` where all count in full. Of pairs
            whose prompts are learned too, 1 for labels of answers and 0 for those of prompts.
    """

    input_ids_BT: torch.Tensor
    labels_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    segment_ids_BT: torch.Tensor
    row_ids: tuple[tuple[int, ...], ...]
    is_desirable: tuple[bool, ...] = ()
    values: torch.Tensor | None = None
    weights_BT: torch.Tensor | None = None

    @property
    def num_label_tokens(self) -> int:
        """Positions with loss."""
        return int((self.labels_BT != IGNORED).sum())

    @property
    def label_weights(self) -> torch.Tensor | None:
        """How much each position with loss counts, line by line; ``None`` where all count in full. Shape: [N]."""
        return None if self.weights_BT is None else self.weights_BT[self.labels_BT != IGNORED]

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Positions with loss of each text, line by line."""
        found: list[int] = []
        for ids, segments_T, labels_T in zip(self.row_ids, self.segment_ids_BT, self.labels_BT, strict=True):
            found += torch.bincount(segments_T[labels_T != IGNORED], minlength=1 + len(ids)).tolist()[1:]
        return tuple(found)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids_BT > 0).sum())

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """Row and tokens of each text, line by line; `PADDING` stands for a row where a line is not full."""
        found: list[tuple[int, int]] = []
        for ids, segments_T in zip(self.row_ids, self.segment_ids_BT, strict=True):
            num_padding, *lengths = torch.bincount(segments_T, minlength=1 + len(ids)).tolist()
            found += [*zip(ids, lengths, strict=True), (PADDING, num_padding)]
        return tuple((row, num_tokens) for row, num_tokens in found if num_tokens)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.to(device),
            labels_BT=self.labels_BT.to(device),
            position_ids_BT=self.position_ids_BT.to(device),
            segment_ids_BT=self.segment_ids_BT.to(device),
            values=None if self.values is None else self.values.to(device),
            weights_BT=None if self.weights_BT is None else self.weights_BT.to(device),
        )


def collate(bins: Sequence[Sequence[int]], rows: TokenisedRows | Mismatched, pad_id: int) -> Batch:
    """Make a batch of some rows.

    Args:
        bins: Positions of the rows on each line of the batch.
        rows: Where their tokens are.
        pad_id: Token id that fills lines up to the longest.
    """
    lines = [[(row, *text) for row in line for text in rows.labelled(row)] for line in bins]
    num_tokens = max(sum(len(ids_T) for _, ids_T, _ in line) for line in lines)
    input_ids_BT = np.full((len(lines), num_tokens), pad_id, dtype=np.int64)
    labels_BT = np.full((len(lines), num_tokens), IGNORED, dtype=np.int64)
    position_ids_BT = np.zeros((len(lines), num_tokens), dtype=np.int64)
    segment_ids_BT = np.zeros((len(lines), num_tokens), dtype=np.int64)
    for at, line in enumerate(lines):
        start = 0
        for segment, (_, ids_T, labels_T) in enumerate(line, start=1):
            end = start + len(ids_T)
            input_ids_BT[at, start:end] = ids_T
            labels_BT[at, start:end] = labels_T
            position_ids_BT[at, start:] = np.arange(num_tokens - start)
            segment_ids_BT[at, start:end] = segment
            start = end
    return Batch(
        torch.from_numpy(input_ids_BT),
        torch.from_numpy(labels_BT),
        torch.from_numpy(position_ids_BT),
        torch.from_numpy(segment_ids_BT),
        tuple(tuple(int(rows.row_ids[row]) for row, _, _ in line) for line in lines),
        tuple(bool(rows.is_desirable[row]) for line in lines for row, _, _ in line),
        None if isinstance(rows, Mismatched) else _values(bins, rows),
        None if isinstance(rows, Mismatched) else _weights(bins, rows, num_tokens),
    )


def _values(bins: Sequence[Sequence[int]], rows: TokenisedRows) -> torch.Tensor | None:
    found = [values for line in bins for row in line if (values := rows.values(row)) is not None]
    return torch.from_numpy(np.stack(found)) if found else None


def _weights(bins: Sequence[Sequence[int]], rows: TokenisedRows, num_tokens: int) -> torch.Tensor | None:
    """How much labels count, 1 wherever nothing says otherwise. Shape: [B, T]."""
    if not rows.has_weights:
        return None
    found = [[rows.label_weights(row) for row in line] for line in bins]
    if all(of_row is None for of_line in found for of_row in of_line):
        return None
    weights_BT = np.ones((len(bins), num_tokens), dtype=np.float32)
    for at, line in enumerate(bins):
        ends = np.cumsum(rows.lengths[list(line)])
        for row, end, weights_T in zip(line, ends, found[at], strict=True):
            if weights_T is not None:
                weights_BT[at, end - rows.lengths[row] : end] = weights_T
    return torch.from_numpy(weights_BT)


def filler_batch(pad_id: int) -> Batch:
    """A batch without rows, for a rank that has none left while others still do: collectives must line up."""
    ids_BT = torch.full((1, _FILLER_TOKENS), pad_id)
    positions_BT = torch.arange(_FILLER_TOKENS)[None]
    return Batch(ids_BT, torch.full_like(ids_BT, IGNORED), positions_BT, torch.zeros_like(ids_BT), ((),))


def attention_mask(batch: Batch, dtype: torch.dtype) -> torch.Tensor | None:
    """What the model needs so that no token sees another row's tokens.

    Rows that are alone on their line need nothing: padding comes after them, where causal attention never looks.
    Bins need a mask of their own, in a base that does not attend by rows.

    Args:
        batch: What goes in.
        dtype: What the model computes in: a mask of truths would be turned into numbers again in every layer.

    Returns:
        ``None``, or what is added to the scores: 0 where a token (third axis) may attend to another (fourth axis),
        -inf elsewhere. Padding attends to padding, so no line of the mask is empty. Shape: [B, 1, T, T].
    """
    if all(len(line) <= 1 for line in batch.row_ids):
        return None
    segment_B1T = batch.segment_ids_BT[:, None]
    is_same_B1TT = segment_B1T[..., :, None] == segment_B1T[..., None, :]
    num_tokens = segment_B1T.shape[-1]
    is_before_TT = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=segment_B1T.device).tril()
    may_attend_B1TT = is_same_B1TT & is_before_TT
    return torch.zeros_like(may_attend_B1TT, dtype=dtype).masked_fill_(~may_attend_B1TT, float("-inf"))
