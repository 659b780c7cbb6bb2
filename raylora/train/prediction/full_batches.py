"""The largest batches that a run may meet, without values: what a pass of all slots is given, on the meta device.

Specs of the slots and their base enter; inputs and labels leave. Called by `dry_run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from raylora.data.collate import Batch
from raylora.data.flat import FlatBatch, unlike
from raylora.model.base.task_class import sees_both_sides
from raylora.spec.run import RunSpec
from raylora.spec.value_shape import row_tokens, value_shape
from raylora.train.forward import encoder_inputs, padded_inputs, two_sided_inputs

META = torch.device("meta")


@dataclass(frozen=True)
class Lines:
    """What a pass is given.

    Args:
        inputs: Of the model.
        labels_BT: Of the readout.
        counts: Labelled tokens, texts or files of each slot.
        num_tokens: Of each slot; ``None`` where all are of one.
        rows: Of each slot the number and tokens of each row, where they lie one after the other.
        target_rows: The same of the line of targets, where sources lie on another.
        is_padded: Whether lines have padding, which models then mask.
    """

    inputs: dict[str, Any]
    labels_BT: Tensor
    counts: tuple[int, ...]
    num_tokens: tuple[int | None, ...]
    rows: tuple[tuple[tuple[int, int], ...], ...]
    target_rows: tuple[tuple[tuple[int, int], ...], ...] = ()
    is_padded: bool = False


def full_batches(model: PreTrainedModel, specs: Sequence[RunSpec], by_rows: bool) -> list[Lines]:
    """Inputs and labels of full lines, as the step would hand them to the model; of those that differ the largest.

    Args:
        model: On the meta device.
        specs: The runs of the slots, from slot 0; one where rows are padded lines.
        by_rows: Whether rows lie one after the other, or are no texts.
    """
    spec = specs[0]
    if spec.has_two_sides:
        return [_two_sides(model, specs, *lengths) for lengths in _lengths_of_sides(spec)]
    length = row_tokens(spec, model.config)
    rows = tuple(_rows(model, of_slot) if by_rows else () for of_slot in specs)
    inputs, labels_BT = _full_lines(model, specs, [number for of_slot in rows for _, number in of_slot])
    counts = tuple(_num_labels(of_slot) for of_slot in specs)
    num_tokens = tuple(of_slot.micro_batch_size * length if by_rows else None for of_slot in specs)
    return [Lines(inputs, labels_BT, counts, num_tokens, rows)]


def _num_labels(spec: RunSpec) -> int:
    """Every token, or every text or file."""
    of_line = {"seq_cls": 2 if spec.rl == "reward" else 1, "image_cls": 1, "audio_cls": 1}
    return spec.micro_batch_size * of_line.get(spec.task_type, spec.sequence_len)


def _rows(model: PreTrainedModel, spec: RunSpec) -> tuple[tuple[int, int], ...]:
    """Rows of a full micro-batch on one line; of a pair, whose texts an encoder has as a row each, one is short."""
    if model.main_input_name != "input_ids":
        return ()
    length = spec.sequence_len
    is_apart = spec.rl == "reward" and length > 1 and sees_both_sides(model.config)
    texts = (length - 1, 1) if is_apart else (length,)
    return tuple((row, number) for row in range(spec.micro_batch_size) for number in texts)


def _lengths_of_sides(spec: RunSpec) -> list[tuple[int, int]]:
    """Tokens of the longest source and of the longest target.

    One row has `sequence_len` of them in both together. What a pass takes is most where nearly all of them are on one
    side: it grows with each side and with its square. Of two rows one may be all source, and the other all target.
    """
    if spec.micro_batch_size > 1:
        return [(spec.sequence_len, spec.sequence_len)]
    most = max(1, spec.sequence_len - 1)
    return [(most, 1), (1, most)]


def _two_sides(model: PreTrainedModel, specs: Sequence[RunSpec], num_sources: int, num_targets: int) -> Lines:
    """Sources on one line and targets on another, all of whose tokens are labelled."""
    rows, target_rows = (
        tuple(tuple((row, number) for row in range(spec.micro_batch_size)) for spec in specs)
        for number in (num_sources, num_targets)
    )
    sources, targets = (_line([number for of_slot in rows_ for _, number in of_slot]) for rows_ in (rows, target_rows))
    inputs = two_sided_inputs(unlike(sources, targets), targets, model.config.decoder_start_token_id)
    counts = tuple(spec.micro_batch_size * num_targets for spec in specs)
    num_tokens = tuple(spec.micro_batch_size * num_sources for spec in specs)
    return Lines(inputs, targets.labels_1N, counts, num_tokens, rows, target_rows)


def _line(row_lengths: Sequence[int]) -> FlatBatch:
    ids_1N, labels_1N, positions_1N, _ = _empty((1, sum(row_lengths)))
    return FlatBatch(ids_1N, labels_1N, positions_1N, tuple(row_lengths))


def _full_lines(
    model: PreTrainedModel, specs: Sequence[RunSpec], row_lengths: Sequence[int]
) -> tuple[dict[str, Any], Tensor]:
    """Lines of one side, or one line of rows of these lengths, or files."""
    spec = specs[0]
    if (values := value_shape(spec.task_type, model.config)) is not None:
        num_rows = sum(of_slot.micro_batch_size for of_slot in specs)
        labels_BT = torch.empty(num_rows, values.num_tokens, dtype=torch.int64, device=META)
        return {model.main_input_name: torch.empty(num_rows, *values.size, dtype=model.dtype, device=META)}, labels_BT
    if row_lengths:
        line = _line(row_lengths)
        return line.inputs, line.labels_1N
    both_sides = sees_both_sides(model.config)
    # Of a pair, an encoder has each text on a line of its own, at worst with next to nothing in the other.
    texts_a_line = 2 if spec.rl == "reward" and both_sides else 1
    shape = (texts_a_line * sum(of_slot.micro_batch_size for of_slot in specs), spec.sequence_len)
    ids_BT, labels_BT, positions_BT, segments_BT = _empty(shape)
    rows = (0, 1) if spec.joins_texts else (0,)  # two texts on a line need a mask
    batch = Batch(ids_BT, labels_BT, positions_BT, segments_BT, (rows,) * shape[0])
    return encoder_inputs(batch) if both_sides else padded_inputs(batch, model.dtype), batch.labels_BT


def _empty(shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, labels, positions and segments of lines."""
    ids, labels, positions, segments = (torch.empty(shape, dtype=torch.int64, device=META) for _ in range(4))
    return ids, labels, positions, segments
