"""Where a model's head was: each slot trains a head of its own, so the base has none.

A model for a task with a head enters, on the meta device; its head leaves the module tree, and a seat without
parameters stands in its place, so that nothing that quantizes, places, counts or adapts the base meets the head.
`heads` makes the slots' heads after it, and a readout (`objectives/head_scores.py`) says what the seat answers. Called
by `meta`.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.task_class import sees_both_sides
from raylora.spec.fields.task import TaskFields

NAMES = ("score", "classifier")
"""What PEFT takes for the head of a classifier."""


class SlotHeads(Protocol):
    """Heads of slots; `heads` has them."""

    def __call__(self, rows: Tensor) -> Tensor:
        """The outputs of each slot's head for its rows."""

    def thinned(self, hidden_BTH: Tensor) -> Tensor:
        """What is left of a head's inputs after dropout."""


class HeadSeat(nn.Module):
    """Stands where the head was.

    Args:
        name: Of the head in the model.
        head: The head, on the meta device.
        task: What it is for.
        is_published: Whether the base's files may have one for this task.
        std: Standard deviation of a fresh head's matrices, as transformers draws them.
        dropout: What a head's inputs are thinned by in training, where the model no longer does so.
    """

    heads: SlotHeads
    """Of the slots; set by what holds them."""

    def __init__(
        self, name: str, head: nn.Module, task: TaskFields, is_published: bool, std: float, dropout: float
    ) -> None:
        super().__init__()
        self.name, self.task_type, self.num_labels = name, task.task_type, task.num_labels
        self.is_published, self.std, self.dropout = is_published, std, dropout
        self.read = self.unread
        self._head = (head,)  # in a tuple, which torch does not look into

    @property
    def head(self) -> nn.Module:
        """The head as the model's class makes it; without values."""
        return self._head[0]

    @property
    def is_by_token(self) -> bool:
        """Whether the head is one linear layer; others look at whole lines (RoBERTa's takes the first token)."""
        return isinstance(self.head, nn.Linear)

    def forward(self, hidden: Tensor) -> Tensor:
        """What the readout makes of the head's input."""
        return self.read(hidden)

    def unread(self, hidden: Tensor) -> Tensor:
        """Of passes that nobody reads."""
        return hidden.new_zeros(*hidden.shape[:-1], self.num_labels)


def take_head(model: PreTrainedModel, task: TaskFields) -> None:
    """Take the head out of a model.

    Args:
        model: Changed in place.
        task: What it is for.

    Raises:
        ModelError: It has no head that PEFT knows.
    """
    name = next((name for name in NAMES if isinstance(getattr(model, name, None), nn.Module)), None)
    if name is None:
        raise ModelError(
            f"base_model: {type(model).__name__} has its head under another name than {' and '.join(NAMES)}, which "
            "PEFT would not save. Allowed: a base such as BERT, RoBERTa, Llama, Qwen or Mistral. Choose one of these."
        )
    config: Any = model.config
    is_published = type(model).__name__ in (config.architectures or ())
    std, dropout = float(getattr(config.get_text_config(), "initializer_range", None) or 0.02), 0.0
    if not sees_both_sides(config):
        dropout = _dropout_taken_off(model)
        text = config.get_text_config()
        # transformers asks where padding starts; the readout knows which tokens count.
        text.pad_token_id = 0 if text.pad_token_id is None else text.pad_token_id
    setattr(model, name, HeadSeat(name, getattr(model, name), task, is_published, std, dropout))


def seat_of(model: nn.Module) -> HeadSeat | None:
    """The seat of a model's head, ``None`` where the base has its own."""
    return next((child for child in model.children() if isinstance(child, HeadSeat)), None)


def head_values(model: nn.Module) -> int:
    """Values of one slot's head; 0 where the base has its own."""
    seat = seat_of(model)
    return 0 if seat is None else sum(parameter.numel() for parameter in seat.head.parameters())


def output_head(model: PreTrainedModel) -> nn.Module:
    """What makes the model's output: its head, or the seat of one."""
    head: nn.Module = seat_of(model) or model.get_output_embeddings()
    return head


def _dropout_taken_off(model: PreTrainedModel) -> float:
    """Switch off what a decoder thins the head's input by: it would draw once for the rows of all slots."""
    found = [child for child in model.children() if isinstance(child, nn.Dropout)]
    taken = max((child.p for child in found), default=0.0)
    for child in found:
        child.p = 0.0
    return taken
