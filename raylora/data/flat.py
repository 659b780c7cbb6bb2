"""A batch's rows one after the other on one line, without padding, for a model that attends row by row.

A padded batch enters; what such a model takes leaves, with the labels in the same order. Lines of several slots are
joined to one. Models that take padded lines are given one text a line, models of two sides a line of sources and one of
targets. Called by the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from raylora.data.collate import Batch
from raylora.spec.fields.labels import IGNORED


@dataclass(frozen=True)
class FlatBatch:
    """The rows of one micro-batch on one line.

    Args:
        input_ids_1N: Token ids of the rows, one row after the other.
        labels_1N: The id of the *next* token at each position, or -100 where there is no loss.
        position_ids_1N: Position of each token in its own row.
        row_lengths: Tokens of each row, in order, at least 1 each; numbers of Python, so that no device is asked.
    """

    input_ids_1N: Tensor
    labels_1N: Tensor
    position_ids_1N: Tensor
    row_lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return self.input_ids_1N.shape[1]

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a model that attends row by row."""
        return {
            "input_ids": self.input_ids_1N,
            "position_ids": self.position_ids_1N,
            "row_lengths": self.row_lengths,
        }

    def counted_past(self, token: int) -> FlatBatch:
        """The same rows with positions as RoBERTa counts them: from its token for padding on, which has none itself.

        Args:
            token: Number of that token.
        """
        counted = [
            token + is_other.cumsum(0) * is_other
            for is_other in (self.input_ids_1N[0] != token).long().split(self.row_lengths)
        ]
        return replace(self, position_ids_1N=torch.cat(counted)[None])

    def to(self, device: torch.device | str) -> FlatBatch:
        """The same rows on a device."""
        return replace(
            self,
            input_ids_1N=self.input_ids_1N.to(device),
            labels_1N=self.labels_1N.to(device),
            position_ids_1N=self.position_ids_1N.to(device),
        )


def flatten(batch: Batch) -> FlatBatch:
    """Take the padding out of a batch; rows keep their order, line by line and left to right.

    Args:
        batch: Best on the CPU: a device would be waited for, since its segments say how long rows are. Without any
            row, its padding stays and counts as one row a line: a model takes no line without tokens.
    """
    is_kept_BT = batch.segment_ids_BT > 0
    if not is_kept_BT.any():
        is_kept_BT = torch.ones_like(is_kept_BT)
    lines_BT = torch.arange(len(is_kept_BT), device=is_kept_BT.device)[:, None].expand_as(is_kept_BT)
    rows_N2 = torch.stack([lines_BT[is_kept_BT], batch.segment_ids_BT[is_kept_BT]], dim=1)
    _, lengths = torch.unique_consecutive(rows_N2, dim=0, return_counts=True)
    return FlatBatch(
        batch.input_ids_BT[is_kept_BT][None],
        batch.labels_BT[is_kept_BT][None],
        batch.position_ids_BT[is_kept_BT][None],
        tuple(lengths.tolist()),
    )


def join(lines: Sequence[FlatBatch]) -> FlatBatch:
    """Lines one after the other, as one; at least one."""
    return FlatBatch(
        torch.cat([line.input_ids_1N for line in lines], dim=1),
        torch.cat([line.labels_1N for line in lines], dim=1),
        torch.cat([line.position_ids_1N for line in lines], dim=1),
        tuple(length for line in lines for length in line.row_lengths),
    )


def one_text_a_line(batch: Batch) -> Batch:
    """Give each text a line of its own, padded at its end, for models that tell no texts of a line apart.

    Args:
        batch: On the CPU; without any text it stays as it is.
    """
    if all(len(ids) <= 1 for ids in batch.row_ids):
        return batch
    line = flatten(batch)
    ids, labels, positions = (
        pad_sequence(list(of[0].split(line.row_lengths)), batch_first=True, padding_value=padding)
        for of, padding in ((line.input_ids_1N, 0), (line.labels_1N, IGNORED), (line.position_ids_1N, 0))
    )
    lengths_B1 = torch.tensor(line.row_lengths)[:, None]
    segments_BT = (torch.arange(ids.shape[1])[None] < lengths_B1).long()
    return Batch(ids, labels, positions, segments_BT, tuple((row,) for of_line in batch.row_ids for row in of_line))


def sources_and_targets(line: FlatBatch) -> tuple[FlatBatch, FlatBatch]:
    """Take rows of a source and a target apart: every other text of the line.

    Args:
        line: Of such rows. An odd text is padding of a batch without any row, and is both.
    """
    if len(line.row_lengths) % 2:
        return line, line
    return _every_other(line, 0), _every_other(line, 1)


def unlike(sources: FlatBatch, targets: FlatBatch) -> FlatBatch:
    """The sources, with one token of nobody's behind them where both lines would be equally long.

    By their number a layer tells the tokens of the one side from those of the other.

    Args:
        sources: Of all slots.
        targets: Of all slots.
    """
    if sources.num_tokens != targets.num_tokens:
        return sources
    zero = torch.zeros_like(sources.input_ids_1N[:, :1])
    return join([sources, FlatBatch(zero, torch.full_like(zero, IGNORED), zero, (1,))])


def _every_other(line: FlatBatch, side: int) -> FlatBatch:
    ids, labels, positions = (
        torch.cat(of[0].split(line.row_lengths)[side::2])[None]
        for of in (line.input_ids_1N, line.labels_1N, line.position_ids_1N)
    )
    return FlatBatch(ids, labels, positions, line.row_lengths[side::2])
