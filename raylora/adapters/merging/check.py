"""Whether a merged model computes what base and adapter compute together, by their logits on a few lines of text.

The adapter and its base enter before anything is written, the merged folder after; the difference leaves. The one side
adds the update to what a layer puts out, the other has it in its weights: the difference shows what the merge got
wrong. Of either a block is in memory at a time. Called by the command ``merge``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from raylora.adapters.delta import Delta
from raylora.adapters.merging.rounding import Holding
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.errors import RunFailedError
from raylora.model.adapter.dora import TINY
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.load import base_on_meta, load_in_turn
from raylora.model.base.meta import read_config
from raylora.spec.run import RunSpec

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Question: why is the sky blue by day and red in the evening?\nAnswer:",
    "1, 2, 3, 5, 8, 13,",
)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Agreement:
    """How near two models' logits are, both computed in float32.

    Args:
        max_difference: Largest absolute difference of two logits.
        largest_logit: Largest absolute logit of base and adapter.
        argmax_agrees: Whether both find the same token likeliest, everywhere.
    """

    max_difference: float
    largest_logit: float
    argmax_agrees: bool

    def check(self, tolerance: float | None) -> None:
        """Refuse a merged model that is another one.

        Args:
            tolerance: Largest difference, relative to the largest logit, that is let pass; ``None`` where any finite
                one is only told.

        Raises:
            RunFailedError: The logits differ by more than the arithmetic, or are not finite.
        """
        allowed = math.inf if tolerance is None else tolerance * self.largest_logit
        if not math.isfinite(self.max_difference) or self.max_difference > allowed:
            raise RunFailedError(
                "merge: logits of the merged model differ from those of base and adapter by "
                f"{self.max_difference:.3g}, allowed are {allowed:.3g}; nothing was kept. Merge it with PEFT, and "
                "report the config.json of the base and the config of the adapter as a bug"
            )


@dataclass(frozen=True)
class Wanted:
    """What base and adapter compute together.

    Args:
        ids_ST: Ids of the prompts, with any after the end of those that are shorter.
        lengths: Tokens of each prompt.
        logits: Of each prompt's tokens, (N, V), float32.
    """

    ids_ST: Tensor
    lengths: tuple[int, ...]
    logits: tuple[Tensor, ...]

    def compare(self, merged: Path) -> Agreement:
        """Run the merged model over the prompts, in float32.

        Args:
            merged: Its folder.
        """
        model = float32_on_meta(merged)
        load_in_turn(model, merged, CPU)
        pairs = list(zip(self.logits, _logits(model, self.ids_ST, self.lengths), strict=True))
        return Agreement(
            max_difference=float(torch.stack([(theirs - ours).abs().max() for theirs, ours in pairs]).max()),
            largest_logit=float(torch.stack([theirs.abs().max() for theirs in self.logits]).max()),
            argmax_agrees=all(torch.equal(theirs.argmax(-1), ours.argmax(-1)) for theirs, ours in pairs),
        )


def wanted_logits(found: Mapping[str, Delta], base: Path, rounding: Holding | None = None) -> Wanted:
    """Run base and a low-rank adapter over the prompts, in float32.

    Args:
        found: What the adapter does to each layer.
        base: Folder of the base.
        rounding: How to round its linear layers but the head first.

    Raises:
        ModelError: The base has no tokenizer that can be loaded, or cannot be loaded itself.
        RunFailedError: The tokenizer makes no tokens of a text.
    """
    model = float32_on_meta(base)
    for module, delta in found.items():
        model.get_submodule(module).register_forward_hook(partial(_updated, delta))
    load_in_turn(model, base, CPU, lambda part: None if rounding is None else _round(part, rounding))
    return logits_of(model, base)


def logits_of(model: PreTrainedModel, base: Path) -> Wanted:
    """Run a model over the prompts.

    Args:
        model: Base and adapter, in float32; a block may be filled as late as it runs.
        base: Folder of the base.

    Raises:
        ModelError: The base has no tokenizer that can be loaded.
        RunFailedError: The tokenizer makes no tokens of a text.
    """
    rows = _rows(base)
    lengths, ids_ST = tuple(map(len, rows)), pad_sequence(rows, batch_first=True)
    return Wanted(ids_ST, lengths, _logits(model, ids_ST, lengths))


def _rows(base: Path) -> list[Tensor]:
    tokenizer = load_tokenizer(base)
    lists: list[Any] = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    rows = [torch.tensor(ids) for ids in lists if ids]
    if not rows:
        raise RunFailedError(f"merge: the tokenizer of {base} makes no tokens of a text; use --no-check")
    return rows


@torch.no_grad()
def _logits(model: PreTrainedModel, ids_ST: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, ...]:
    logits_STV = model.eval()(ids_ST).logits.float()  # tokens after the end are seen by none before it
    return tuple(logits_TV[:length] for logits_TV, length in zip(logits_STV, lengths, strict=True))


def float32_on_meta(folder: Path) -> PreTrainedModel:
    """A base without weights, frozen.

    Args:
        folder: Of the base.

    Raises:
        ModelError: It is no model for the next token.
    """
    fields = {"base_model": str(folder), "dtype": "float32", "datasets": [{"path": "none"}]}
    return base_on_meta(read_config(folder), RunSpec.model_validate(fields), torch.float32)


def _updated(delta: Delta, layer: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
    """What a layer puts out under its update.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3; DoRA, https://arxiv.org/abs/2402.09353, equation 5.
    """
    (x,) = args
    added = delta.scale * (x @ delta.a_RI.T @ delta.b_OR.T)
    if delta.magnitude_O is None:
        return output + added
    bias = 0.0 if layer.bias is None else layer.bias
    norm_O = torch.linalg.vector_norm(layer.weight + delta.update(), dim=1).clamp_min(TINY**0.5)
    turned: Tensor = (output - bias + added) * (delta.magnitude_O / norm_O) + bias
    return turned


def _round(part: nn.Module, held: Holding) -> None:
    for layer in part.modules():
        if isinstance(layer, FrozenLinear) and not layer.weight.is_meta:
            layer.weight.data = held.rounded(layer.weight.data)
