"""Next-token cross-entropy of the labelled tokens, out of which every objective on text is made."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.objectives.linear_cross_entropy import linear_cross_entropy
from raylora.objectives.objective import Scores
from raylora.objectives.readout import logits_of
from raylora.spec.fields.labels import IGNORED

POST_PROCESSED = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "unpadded_vocab_size",
)
"""Config fields of models that change the head's output before the loss; their logits are taken whole."""

SCALED: dict[str, Callable[[Any, float], Any]] = {
    "logit_scale": operator.mul,
    "logits_scaling": operator.truediv,
    "lm_head_multiplier": operator.mul,
}
"""Config fields of models that multiply or divide the head's output by a number; they do so to losses as well."""


class TokenLosses:
    """Computes each labelled token's loss inside the model's own forward pass.

    The output head is asked for losses instead of logits where the model at most scales them:
    the head runs on labelled tokens only, in chunks, and strategies see an ordinary module call.

    Args:
        model: A causal language model of transformers; its head's ``forward`` is replaced, and gives logits as before
            whenever no loss is being computed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._head: nn.Linear = model.get_output_embeddings()
        self._fused = type(self._head) is nn.Linear and not _post_processes(model.config)
        self._scaled, self._scale = _scaling(model.config)
        self._targets_N: Tensor | None = None
        self._rows_N: Tensor | None = None
        self._losses_N: Tensor | None = None
        self._is_hit_N: Tensor | None = None
        self._is_checked = False
        self._head.forward = self._forward_head

    def __call__(self, inputs: Mapping[str, Any], labels_BT: Tensor) -> Scores:
        """Losses and hits of the labelled tokens, row by row, left to right.

        Args:
            inputs: Keyword arguments of the model: ids, positions, attention mask.
            labels_BT: Id of the next token at each position, -100 where no loss is asked.

        Shapes:
            Of what it returns: (N,), N the number of labels that are not -100; losses are float32.

        Raises:
            ModelError: The model's forward pass cannot run, or changes what its head gives in a way that its config
                does not say.
        """
        self._rows_N = (labels_BT.reshape(-1) != IGNORED).nonzero().squeeze(1)
        self._targets_N = labels_BT.reshape(-1)[self._rows_N]
        try:
            output = logits_of(self._model, inputs)
        finally:
            targets_N, self._targets_N = self._targets_N, None
        if self._fused:
            self._check_handed_on(output)
            is_hit_N, self._is_hit_N = self._is_hit_N, None
            assert is_hit_N is not None  # the head was called
            return Scores(output / self._scale, is_hit_N)  # the model took the losses for logits
        logits_NV = output.reshape(-1, output.shape[-1]).float()
        losses_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        return Scores(losses_N, logits_NV.argmax(-1) == targets_N)

    def _forward_head(self, hidden_BTH: Tensor) -> Tensor:
        head = self._head
        if self._targets_N is None:
            return F.linear(hidden_BTH, head.weight, head.bias)
        hidden_NH = hidden_BTH.reshape(-1, hidden_BTH.shape[-1])[self._rows_N]
        if self._fused:
            losses_N, self._is_hit_N = linear_cross_entropy(
                hidden_NH, head.weight, head.bias, self._targets_N, self._scale
            )
            self._losses_N = self._scaled(losses_N)
            return losses_N
        return F.linear(hidden_NH, head.weight, head.bias)[None]

    def _check_handed_on(self, output: Tensor) -> None:
        """Refuse a model whose output is not what its head gave; asked until a batch had labels.

        Losses that are not finite show nothing: NaN equals nothing, and whoever asked for them ends the run.
        """
        losses_N, self._losses_N = self._losses_N, None
        if self._is_checked or losses_N is None or not losses_N.numel() or losses_N.is_meta:
            return
        if not losses_N.isfinite().all():
            return
        if not torch.equal(output, losses_N):
            raise ModelError(
                f"base_model: {type(self._model).__name__} changes its logits after the output head otherwise than its "
                f"config says in {', '.join((*POST_PROCESSED, *SCALED))}; the loss would be wrong. Report this model's "
                "config.json"
            )
        self._is_checked = True


def _post_processes(config: Any) -> bool:
    fields = config.get_text_config()
    words = any(isinstance(getattr(fields, name, None), str) for name in SCALED)
    return words or any(getattr(fields, name, None) not in (None, 1, 1.0) for name in POST_PROCESSED)


def _scaling(config: Any) -> tuple[Callable[[Tensor], Tensor], float]:
    """What a model does to its head's output, in the model's own operation; and the factor that this amounts to."""
    fields = config.get_text_config()
    for name, operation in SCALED.items():
        if isinstance(number := getattr(fields, name, None), float | int):
            return partial(_scaled_by, operation, number), operation(1.0, number)
    return lambda losses_N: losses_N, 1.0


def _scaled_by(operation: Callable[[Any, float], Any], number: float, losses_N: Tensor) -> Tensor:
    scaled_N: Tensor = operation(losses_N, number)
    return scaled_N
