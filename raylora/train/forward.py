"""One forward pass: the micro-batches of some slots enter side by side, the scores of each leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from raylora.data.collate import PADDING, Batch, attention_mask, filler_batch
from raylora.data.flat import FlatBatch, flatten, join, one_text_a_line, sources_and_targets, unlike
from raylora.model.rows.route import NOBODY, Span
from raylora.objectives.objective import Scores
from raylora.train.trainee import Trainee


@dataclass(frozen=True)
class Piece:
    """One slot's part of a forward pass.

    Args:
        span: The slot, and where its training stands; the pass fills in what the batch says.
        batch: Its micro-batch, on the CPU.
    """

    span: Span
    batch: Batch


def scores_of(trainee: Trainee, pieces: Sequence[Piece]) -> tuple[Scores, ...]:
    """Losses and hits of the labelled tokens of each piece.

    Args:
        trainee: The base and its slots.
        pieces: One a slot; a single one where the base does not attend by rows.
    """
    run = _pass_of(trainee)
    # Slots that are alike share calls where they lie side by side.
    order = sorted(range(len(pieces)), key=lambda place: _kind(trainee, pieces[place]))
    counts = [pieces[place].batch.num_label_tokens for place in order]
    parts = run(trainee, [pieces[place] for place in order]).split(counts)
    return tuple(part for _, part in sorted(zip(order, parts, strict=True), key=lambda placed: placed[0]))


def _pass_of(trainee: Trainee) -> Callable[[Trainee, Sequence[Piece]], Scores]:
    if trainee.value_shape is not None:
        return _values
    if trainee.spec.has_two_sides:
        return _two_sides
    return _by_rows if trainee.why_padded is None else _padded


@contextmanager
def not_training(trainee: Trainee) -> Iterator[None]:
    """Run passes inside of this without gradient and dropout; afterwards the base trains, and is sharded, as before.

    Ranks that gather the base together do so as often, and run equally many passes inside.
    """
    was_training = trainee.model.training
    if was_training:
        trainee.train_mode(False)
    try:
        with torch.no_grad():
            yield
            trainee.strategy.rest(trainee.model)
    finally:
        if was_training:
            trainee.train_mode(True)


def beside_reference(trainee: Trainee, pieces: Sequence[Piece]) -> tuple[Scores, ...]:
    """As `scores_of`, with what the base alone gives: after a pass without any adapter and without dropout.

    Args:
        trainee: The base and its slots; whether it trains is left as it was.
        pieces: As of `scores_of`.
    """
    with not_training(trainee):
        alone = scores_of(trainee, [replace(piece, span=replace(piece.span, slot=NOBODY)) for piece in pieces])
    return tuple(
        replace(scores, reference_N=of_base.losses_N)
        for scores, of_base in zip(scores_of(trainee, pieces), alone, strict=True)
    )


def idle_losses(trainee: Trainee) -> Tensor:
    """Losses of no token, out of a pass with tokens of nobody: other ranks need this one's part of the base.

    Shapes:
        Returns (0,).
    """
    return scores_of(trainee, [Piece(Span(NOBODY), filler_batch(0))])[0].losses_N


def _kind(trainee: Trainee, piece: Piece) -> tuple[float, ...]:
    return *trainee.bank.kind(piece.span.slot), piece.batch.num_tokens


def _by_rows(trainee: Trainee, pieces: Sequence[Piece]) -> Scores:
    present = _with_rows(pieces)
    lines = [flatten(piece.batch) for piece in present]
    trainee.bank.route(
        [
            replace(
                piece.span,
                num_tokens=line.num_tokens,
                rows=_rows(piece),
                num_labelled=piece.batch.num_label_tokens,
            )
            for piece, line in zip(present, lines, strict=True)
        ]
    )
    line = join(lines)
    if trainee.uncounted_token is not None:
        line = line.counted_past(trainee.uncounted_token)
    line = line.to(trainee.device)
    return trainee.readout(line.inputs, line.labels_1N)


def _with_rows(pieces: Sequence[Piece]) -> list[Piece]:
    """Those that have any row; all where none has."""
    return [piece for piece in pieces if piece.batch.num_tokens] or list(pieces)


def _rows(piece: Piece) -> tuple[tuple[int, int], ...]:
    return tuple(row for row in piece.batch.rows if row[0] != PADDING)


def _padded(trainee: Trainee, pieces: Sequence[Piece]) -> Scores:
    (piece,) = pieces
    batch = one_text_a_line(piece.batch) if trainee.sees_both_sides else piece.batch
    trainee.bank.route([replace(piece.span, rows=batch.rows, num_labelled=batch.num_label_tokens)])
    batch = batch.to(trainee.device)
    inputs = encoder_inputs(batch) if trainee.sees_both_sides else padded_inputs(batch, trainee.model.dtype)
    return trainee.readout(inputs, batch.labels_BT)


def _two_sides(trainee: Trainee, pieces: Sequence[Piece]) -> Scores:
    present = _with_rows(pieces)
    sides = [sources_and_targets(flatten(piece.batch)) for piece in present]
    trainee.bank.route(
        [
            replace(piece.span, num_tokens=sources.num_tokens, rows=rows[::2], target_rows=rows[1::2])
            for piece, (sources, _) in zip(present, sides, strict=True)
            for rows in [_rows(piece)]
        ]
    )
    targets = join([of for _, of in sides]).to(trainee.device)
    sources = unlike(join([of for of, _ in sides]), targets).to(trainee.device)
    inputs = two_sided_inputs(sources, targets, trainee.model.config.decoder_start_token_id)
    return trainee.readout(inputs, targets.labels_1N)


def _values(trainee: Trainee, pieces: Sequence[Piece]) -> Scores:
    """Images or recordings of all slots one below the other; where no slot has any, an empty one for each."""
    shape = trainee.value_shape
    assert shape is not None
    present = [piece for piece in pieces if piece.batch.values is not None] or list(pieces)
    values = [torch.zeros(1, *shape.size) if of.batch.values is None else of.batch.values for of in present]
    trainee.bank.route(
        [
            replace(
                piece.span,
                num_tokens=len(of_piece) * shape.num_tokens,
                rows=piece.batch.rows if piece.batch.num_tokens else (),
                num_labelled=piece.batch.num_label_tokens,
            )
            for piece, of_piece in zip(present, values, strict=True)
        ]
    )
    labels_BT = torch.cat([piece.batch.labels_BT for piece in present]).to(trainee.device)
    return trainee.readout(
        {trainee.model.main_input_name: torch.cat(values).to(trainee.device, trainee.model.dtype)}, labels_BT
    )


def padded_inputs(batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """The keyword arguments of a model that computes in ``dtype`` for a batch of padded lines.

    Args:
        batch: Lines of one row, or bins of several.
        dtype: That of the mask that keeps the rows of a bin apart.
    """
    inputs = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT}
    mask = attention_mask(batch, dtype)
    return inputs if mask is None else inputs | {"attention_mask": mask}


def encoder_inputs(batch: Batch) -> dict[str, Tensor]:
    """The keyword arguments of a model whose tokens see those after them, for lines of one text; it counts positions.

    Args:
        batch: Lines of one text; a batch without any text is taken as if its padding were one.
    """
    is_text_BT = batch.segment_ids_BT > 0
    mask_BT = is_text_BT | ~is_text_BT.any(1, keepdim=True)
    return {"input_ids": batch.input_ids_BT, "attention_mask": mask_BT.long()}


def two_sided_inputs(sources: FlatBatch, targets: FlatBatch, start_id: int) -> dict[str, Any]:
    """The keyword arguments of a model that reads sources and writes targets.

    Args:
        sources: One after the other.
        targets: In the same order.
        start_id: Token that the decoder starts with, in the place of each target's first one.
    """
    ids_1N = targets.input_ids_1N.masked_fill(targets.position_ids_1N == 0, start_id)
    return {
        "input_ids": sources.input_ids_1N,
        "decoder_input_ids": ids_1N,
        "row_lengths": sources.row_lengths,
        "target_lengths": targets.row_lengths,
    }
