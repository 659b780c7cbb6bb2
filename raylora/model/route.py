"""Whose tokens a forward pass holds: the step sets it before each pass, the low-rank layers read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
            differ in number, by which a layer tells them apart.
        num_labelled: How many of its tokens have labels, where a head is asked about those.
    """

    slot: int
    num_tokens: int | None = None
    step: int = 0
    rows: tuple[tuple[int, int], ...] = ()
    target_rows: tuple[tuple[int, int], ...] = ()
    num_labelled: int = 0


@dataclass
class Route:
    """The spans of the present forward pass, in the order of its tokens, until its backward pass is over.

    Args:
        spans: Whose tokens it holds; tokens after the last belong to nobody.
        training: Whether dropout is on.
    """

    spans: tuple[Span, ...] = ()
    training: bool = True

    def starts(self) -> Iterator[tuple[int, Span]]:
        """Each span with its first token."""
        start = 0
        for span in self.spans:
            yield start, span
            start += span.num_tokens or 0
