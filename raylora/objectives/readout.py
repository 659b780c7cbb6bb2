"""What is read out of a forward pass in the place of its logits: scores of each label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.objectives.objective import Scores


class Readout(Protocol):
    """Computes, inside the model's own forward pass, what an objective needs of each label."""

    def __call__(self, inputs: Mapping[str, Any], labels_BT: Tensor) -> Scores:
        """Scores of each label, line by line and left to right.

        Args:
            inputs: Keyword arguments of the model.
            labels_BT: The labels at their positions, -100 where there is none.

        Raises:
            ModelError: The model's forward pass cannot run.
        """


def logits_of(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Run a model's forward pass, and hand back what it says are its logits.

    Args:
        model: Placed on the ranks.
        inputs: Its keyword arguments.

    Raises:
        ModelError: It cannot run.
    """
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    # No RuntimeError: memory that is full and ranks that are gone, which are not the model's fault, are that too.
    except (TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"base_model: the forward pass of {type(model).__name__} cannot run ({type(error).__name__}: "
            f"{error}). Check that tokenizer, config.json and weights belong together, and that transformers alone "
            "can run this model on the same tokens"
        ) from error
    return logits
