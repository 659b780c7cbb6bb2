"""The heads of the slots of a bank: what classifies, or gives a reward, beside each slot's adapter.

Settings of a slot enter, and rows of hidden states with the route; a head's values leave, by PEFT's names of
``modules_to_save``. A head is float32 and never quantized, starts as the base's own where that was published with one
of its size, and at random otherwise. Called by the packed bank, and through the seat by the readout.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raylora.model.adapter.peft_format import PREFIX
from raylora.model.adapter.slot import Slot
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.head_seat import HeadSeat
from raylora.model.rows.route import Route, Span
from raylora.model.rows.row_dropout import RowDropout, draw_by_rows
from raylora.model.rows.seed import stable_seed

SAVED = "modules_to_save."
"""What the names of a head's parameters begin with."""

Parameter = TypeVar("Parameter", bound=Tensor)


def without_head(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """What of a slot's parameters is of its adapter."""
    return {name: each for name, each in parameters.items() if not name.startswith(SAVED)}


class Heads:
    """One head for each slot.

    Args:
        seat: Where the base's head was; without one there are no heads.
        route: Whose tokens a forward pass holds.
        device: Where the heads live; on the meta device they have no values.
        weights: Reads a head out of the base's files.
    """

    def __init__(self, seat: HeadSeat | None, route: Route, device: torch.device, weights: BaseWeights) -> None:
        self._seat, self._route, self._device, self._weights = seat, route, device, weights
        self._heads: dict[int, nn.Module] = {}
        self._routes: dict[int, Route] = {}
        if seat is not None:
            seat.heads = self
            self._dropout = RowDropout(seat.name, seat.dropout, route)

    def admit(self, slot: int, settings: Slot) -> None:
        """Give a slot a head at its start.

        Args:
            slot: A free one.
            settings: Of its adapter; the seed decides the values that are drawn.
        """
        if self._seat is None:
            return
        head = copy.deepcopy(self._seat.head).to(torch.float32).to_empty(device=self._device)
        for name, parameter in head.named_parameters():
            if not parameter.is_meta:
                parameter.data.copy_(_start(self._seat, self._weights, name, parameter, settings.seed))
        # A head takes its own rows alone, one value of each: what it drops is drawn by a route of their own.
        self._routes[slot] = Route(seeds={slot: settings.seed}, num_draws=Counter())
        draw_by_rows(head, self._seat.name, self._routes[slot])
        self._heads[slot] = head.requires_grad_()

    def release(self, slot: int) -> None:
        """Forget a slot's head."""
        self._heads.pop(slot, None)
        self._routes.pop(slot, None)

    def parameters(self, slot: int) -> dict[str, nn.Parameter]:
        """What trains, by ``modules_to_save.<name of the head>.<parameter>``; nothing without a seat."""
        if self._seat is None:
            return {}
        return {f"{SAVED}{self._seat.name}.{name}": each for name, each in self._heads[slot].named_parameters()}

    def state(self, slot: int) -> Iterator[tuple[str, Tensor]]:
        """A slot's head by the names of ``adapter_model.safetensors``."""
        for name, parameter in self.parameters(slot).items():
            yield PREFIX + name.removeprefix(SAVED), parameter.detach()

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up copies of what :meth:`state` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters(slot).items():
                parameter.copy_(tensors[PREFIX + name.removeprefix(SAVED)])

    @property
    def config(self) -> dict[str, Any]:
        """What ``adapter_config.json`` says of heads."""
        if self._seat is None:
            return {}
        return {"modules_to_save": [self._seat.name]}

    def __call__(self, rows: Tensor) -> Tensor:
        """The outputs of each slot's head for its rows, which lie slot by slot in the order of the route.

        Args:
            rows: What the head takes of each label: a token's hidden state, or those of its whole line.

        Shapes:
            rows: (N, H) or (N, T, H). Returns (N, L), float32.
        """
        spans = self._route.spans
        counts = [len(rows)] if len(spans) == 1 else [span.num_labelled for span in spans]
        parts = zip(spans, rows.split(counts), strict=True)
        return torch.cat([self._of(span, part) for span, part in parts])

    def thinned(self, hidden_BTH: Tensor) -> Tensor:
        """Dropout of a head's inputs as the model would do it, drawn for each row of a slot by itself."""
        thinned_BTH: Tensor = self._dropout.train(self._route.training)(hidden_BTH)
        return thinned_BTH

    def _of(self, span: Span, rows: Tensor) -> Tensor:
        assert self._seat is not None
        if span.slot not in self._heads:  # nobody's: numbers that none looks at, which still lead back to the base
            return rows.flatten(1)[:, :1].float().expand(-1, self._seat.num_labels)
        self._routes[span.slot].begin((replace(span, num_tokens=len(rows)),))
        logits_NL: Tensor = self._heads[span.slot].train(self._route.training)(rows.float())
        return logits_NL


def _start(seat: HeadSeat, weights: BaseWeights, name: str, like: Tensor, seed: int) -> Tensor:
    """The base's own value, or one as transformers starts a fresh head."""
    name = f"{seat.name}.{name}"
    own = weights.published(name) if seat.is_published else None
    if own is not None and own.shape == like.shape:
        return own
    if name.endswith("bias"):
        return torch.zeros(like.shape)
    if like.ndim == 1:  # of a norm
        return torch.ones(like.shape)
    generator = torch.Generator().manual_seed(stable_seed("head", seed, name))
    return torch.empty(like.shape).normal_(std=seat.std, generator=generator)
