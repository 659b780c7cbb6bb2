"""Rows become the micro-batches of each optimizer step and rank.

Enters: tokenised rows, the run's specification and its tokenizer. Leaves: batches as a pure function of
(seed, epoch, step, rank, world size). Called by train.

The rows of a step are the specification's `rows_per_step`, whatever the world size: a run that is resumed with more
or fewer workers takes the same rows in every step, dealt out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from raylora.data.binning import Bins, fill_bins, single_bins
from raylora.data.collate import Batch, collate, filler_batch
from raylora.data.mismatched import Mismatched
from raylora.data.mix import epoch_rows
from raylora.data.order import Purpose, permutation
from raylora.data.tokens.tokenised import Positions, TokenisedRows
from raylora.spec.run import RunSpec


def open_batches(spec: RunSpec, tokenizer: PreTrainedTokenizerFast | None, rows: TokenisedRows) -> Batches:
    """Open the batches of a run's training or validation rows.

    Args:
        spec: The run.
        tokenizer: Gives the token that pads; none where rows are no texts, of which none is longer.
        rows: The rows.
    """
    ids = () if tokenizer is None else (tokenizer.pad_token_id, tokenizer.eos_token_id)
    pad_id = next((i for i in ids if i is not None), 0)
    return Batches(spec, rows, pad_id)


class Batches:
    """Batches of some rows.

    The unit is a bin: the rows that share a line of a batch, or one row where rows are not binned. Every row of the
    mix is shown once in an epoch; the last step of an epoch takes what is left, which may be fewer.

    Args:
        spec: The run: seed, rows per step, micro-batch size, binning, weights.
        rows: The rows.
        pad_id: Token id of padding.
    """

    def __init__(self, spec: RunSpec, rows: TokenisedRows, pad_id: int) -> None:
        self._spec = spec
        self._rows = rows
        self._pad_id = pad_id
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._num_steps = lru_cache(maxsize=None)(self._count_steps)

    def num_steps(self, num_epochs: int = 1) -> int:
        """Optimizer steps of the first epochs. With binning, epochs can differ by a few."""
        return sum(self._num_steps(epoch) for epoch in range(num_epochs))

    def num_steps_holding(self, num_tokens: int, at_most: int) -> int:
        """Fewest optimizer steps whose rows have so many tokens, padding not counted.

        Args:
            num_tokens: Above 0.
            at_most: Steps, of as many epochs as they take.
        """
        done, epoch = 0, 0
        while done < at_most:
            bins = self._epoch(epoch)
            of_bins = bins.lengths(self._rows.lengths, 0, len(bins))
            held = np.cumsum(np.add.reduceat(of_bins, np.arange(0, len(bins), self._spec.rows_per_step)))
            if held[-1] >= num_tokens:
                return min(at_most, done + 1 + int(np.searchsorted(held, num_tokens)))
            done, num_tokens, epoch = done + len(held), num_tokens - int(held[-1]), epoch + 1
        return at_most

    def locate(self, step: int) -> tuple[int, int]:
        """Which epoch a step is in, and its number in that epoch; all count from 0."""
        epoch = 0
        while step >= self._num_steps(epoch):
            step -= self._num_steps(epoch)
            epoch += 1
        return epoch, step

    def step(self, step: int, rank: int, world_size: int) -> list[Batch]:
        """The micro-batches of one rank in one optimizer step.

        Args:
            step: From 0, over all epochs; more than the epochs asked for go on with further epochs.
            rank: From 0.
            world_size: Ranks that share the step's rows.

        Returns:
            As many batches on every rank, at most `micro_batch_size` bins each. Their token counts differ: weigh the
            loss by tokens over all ranks.
        """
        return list(self._deal(self._rows, *self._units(step), rank, world_size))

    def rows_of(self, step: int) -> Positions:
        """The rows of one optimizer step in their order, whoever takes them, by id. Shape: [rows].

        Args:
            step: As of `step`.
        """
        bins, units = self._units(step)
        return self._rows.row_ids[bins.rows[bins.starts[units.start] : bins.starts[units.stop]]]

    def once(self, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield every row once in a fixed order, for validation; as many batches on every rank.

        Args:
            rank: From 0.
            world_size: Ranks that share the rows.
        """
        return self._deal(self._rows, self._fixed, range(len(self._fixed)), rank, world_size)

    def mismatched(self, step: int, rank: int, world_size: int) -> list[Batch]:
        """The prompts of a step's rows, each with the completion of the row before it; the first has the last one's.

        Whatever the world size and the micro-batches, they are the same. A row that is alone in its step takes the
        completion of the row before it in the epoch.

        Args:
            step: As of `step`.
            rank: From 0.
            world_size: Ranks that share the step's rows.

        Returns:
            As many batches on every rank.
        """
        bins, units = self._units(step)
        first, last = bins.starts[units.start], bins.starts[units.stop]
        prompts = bins.rows[first:last]
        completions = np.roll(prompts, 1) if len(prompts) > 1 else bins.rows[[first - 1]]
        return list(self._deal_all(self._with(prompts, completions), rank, world_size))

    def once_mismatched(self, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield the prompt of every row once with another row's completion, for validation; always the same.

        Args:
            rank: From 0.
            world_size: Ranks that share the rows.
        """
        return self._deal_all(self._fixed_mismatched, rank, world_size)

    def place(self, row_id: int) -> str:
        """Say where a row is from, for people: ``rows.jsonl, line 7``."""
        return self._rows.place(row_id)

    @cached_property
    def _fixed(self) -> Bins:
        return _binned(self._rows, np.arange(len(self._rows)), self._capacity)

    @cached_property
    def _fixed_mismatched(self) -> Mismatched:
        """Shuffled, since neighbours in a file often answer one prompt."""
        shuffled = permutation(len(self._rows), Purpose.MISMATCH, 0)
        return self._with(shuffled, np.roll(shuffled, 1))

    def _with(self, prompts: Positions, completions: Positions) -> Mismatched:
        return Mismatched(self._rows, prompts, completions, self._spec.sequence_len)

    def _units(self, step: int) -> tuple[Bins, range]:
        """The bins of a step's epoch, and which of them are the step's."""
        epoch, offset = self.locate(step)
        bins = self._epoch(epoch)
        first = offset * self._spec.rows_per_step
        return bins, range(first, min(first + self._spec.rows_per_step, len(bins)))

    def _make_epoch(self, epoch: int) -> Bins:
        return _epoch_of(self._rows, self._spec.seed, epoch, self._capacity)

    @property
    def _capacity(self) -> int | None:
        return self._spec.sequence_len if self._spec.sample_packing else None

    def _count_steps(self, epoch: int) -> int:
        return -(-len(self._epoch(epoch)) // self._spec.rows_per_step)

    def _deal_all(self, rows: Mismatched, rank: int, world_size: int) -> Iterator[Batch]:
        bins = _binned(rows, np.arange(len(rows)), self._capacity)
        return self._deal(rows, bins, range(len(bins)), rank, world_size)

    def _deal(
        self, rows: TokenisedRows | Mismatched, bins: Bins, units: range, rank: int, world_size: int
    ) -> Iterator[Batch]:
        """Deal units to the ranks, the longest first: those of similar length meet in a batch, with little padding."""
        lengths = bins.lengths(rows.lengths, units.start, units.stop)
        by_length = units.start + np.argsort(-lengths, kind="stable")
        num_dealt = self._spec.micro_batch_size * world_size
        for start in range(0, len(by_length), num_dealt):
            hand = by_length[start : start + num_dealt][rank::world_size]
            lines = [bins[int(index)] for index in hand]
            yield collate(lines, rows, self._pad_id) if lines else filler_batch(self._pad_id)


# Slots of a pack mostly share seed and rows: each would fill the same bins, which takes a second for 100,000 rows.
@lru_cache(maxsize=8)
def _epoch_of(rows: TokenisedRows, seed: int, epoch: int, capacity: int | None) -> Bins:
    """An epoch's rows in their order, one by one or in bins of some tokens."""
    bins = _binned(rows, epoch_rows(rows.source_of, rows.weights, seed, epoch), capacity)
    return bins if capacity is None else bins.take(permutation(len(bins), Purpose.BINS, seed, epoch))


def _binned(rows: TokenisedRows | Mismatched, order: Positions, capacity: int | None) -> Bins:
    return single_bins(order) if capacity is None else fill_bins(order, rows.lengths, capacity)
