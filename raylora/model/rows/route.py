"""Whose tokens a forward pass holds: the step sets it before each pass, the low-rank layers read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

NOBODY = -1
"""A slot that no adapter is in."""


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of a forward pass that belong to one slot.

    Args:
        slot: Whose they are.
        num_tokens: How many; ``None`` for all tokens of the pass.
        step: Where the slot's training stands, from 0; with the rows it seeds dropout.
        rows: Number of each row of the data, and its tokens; they count as one row where absent.
        target_rows: The same of what a decoder takes beside its encoder, which then takes `rows`; the tokens of both
            lines differ in number, by which a layer tells them apart.
        num_labelled: How many of its tokens have labels, where a head is asked about those.
    """

    slot: int
    num_tokens: int | None = None
    step: int = 0
    rows: tuple[tuple[int, int], ...] = ()
    target_rows: tuple[tuple[int, int], ...] = ()
    num_labelled: int = 0

    @property
    def of_targets(self) -> Span:
        """The same on the line of targets."""
        if not self.target_rows:
            return self
        return replace(self, num_tokens=sum(number for _, number in self.target_rows), rows=self.target_rows)


class Placed(NamedTuple):
    """A span, and where its inputs of one layer begin and how many they are."""

    start: int
    num_inputs: int
    span: Span

    @property
    def where(self) -> slice:
        """Its inputs."""
        return slice(self.start, self.start + self.num_inputs)


@dataclass
class Route:
    """The spans of the present forward pass, in the order of its tokens, until its backward pass is over.

    Args:
        spans: Whose tokens it holds; tokens after the last belong to nobody.
        training: Whether dropout is on.
        seeds: Of each slot's run, which its dropout is drawn by.
        num_draws: Of this pass so far, by the name of the dropout, where one may draw more than once, as in heads that
            drop before each of two layers; None where each draws once, and again when a block is computed again.
        repeating: Names of those that may; all where empty.
    """

    spans: tuple[Span, ...] = ()
    training: bool = True
    seeds: dict[int, int] = field(default_factory=dict)
    num_draws: Counter[str] | None = None
    repeating: frozenset[str] = frozenset()

    def begin(self, spans: tuple[Span, ...]) -> None:
        """Begin a pass."""
        self.spans = spans
        if self.num_draws is not None:
            self.num_draws.clear()

    def name_of_draw(self, name: str) -> str:
        """What a dropout draws by now: its name, and a number from its second draw of a pass on."""
        if self.num_draws is None or (self.repeating and name not in self.repeating):
            return name
        self.num_draws[name] += 1
        return name if self.num_draws[name] == 1 else f"{name}.{self.num_draws[name]}"

    def placed(self, num_inputs: int) -> Iterator[Placed]:
        """Each span among the inputs of one layer.

        Args:
            num_inputs: Of the layer, in this pass: tokens, or one of each row where it stands behind a pooler.
        """
        spans = tuple(span.of_targets for span in self.spans)
        if num_inputs != sum(span.num_tokens or 0 for span in spans):
            spans = self.spans
        counts = [num_inputs if span.num_tokens is None else span.num_tokens for span in spans]
        by_row = [max(1, len(span.rows)) for span in spans]  # without any row, a pass still has a line of padding
        if num_inputs == sum(by_row) != sum(counts):
            counts = by_row
        start = 0
        for span, count in zip(spans, counts, strict=True):
            yield Placed(start, count, span)
            start += count
