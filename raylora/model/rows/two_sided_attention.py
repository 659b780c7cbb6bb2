"""Attention row by row in a model of two sides: sources lie on one line, targets on another, both without padding.

A T5 or mT5 enters, on the meta device or filled; it leaves taking ``row_lengths`` and ``target_lengths`` beside the ids
of both lines, each of shape [1, N]. A row's source attends to itself, its target to itself and to that source alone.
Positions are biases of pairs of tokens, which depend on their distance only: those of the longest row hold for all, and
are handed to the first layer of each side, that would else make them of all pairs of tokens on the line. Called by
`attend_by_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from raylora.model.rows.row_dropout import RowDropout

NAME = "raylora_sdpa_by_rows_of_two_sides"
"""The attention's name in transformers' registry."""


def attend_by_rows_of_both(model: PreTrainedModel) -> None:
    """Let a model take rows one after the other; without lengths it is transformers' own.

    Args:
        model: Of `TWO_SIDES`; changed in place. Its parameters may be on the meta device.
    """
    if model.config._attn_implementation == NAME:
        return
    model.set_attn_implementation(NAME)
    model.register_forward_pre_hook(_hand_no_masks, with_kwargs=True)
    for module in model.modules():
        if hasattr(module, "compute_bias"):
            module.register_forward_pre_hook(_hand_bias, with_kwargs=True)


def _hand_no_masks(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """A mask of four axes is handed on as it is, so none is made."""
    if kwargs.get("row_lengths") is None:
        return None
    empty = torch.empty(1, 1, 0, 0, device=kwargs["input_ids"].device)
    return args, kwargs | {"attention_mask": empty, "decoder_attention_mask": empty}


def _hand_bias(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """The bias of the longest row, once for all layers of a side; a layer that runs again is handed it again."""
    if kwargs.get("row_lengths") is None or kwargs.get("position_bias") is not None:
        return None
    bias = args[0].new_zeros(1)  # cross attention has none, but asks for something
    if module.has_relative_attention_bias:
        longest = max(kwargs["target_lengths"] if module.is_decoder else kwargs["row_lengths"])
        bias = module.compute_bias(longest, longest, device=args[0].device)
        if module.is_decoder:
            is_later_TT = torch.ones(longest, longest, dtype=torch.bool, device=bias.device).triu(1)
            bias = bias.masked_fill(is_later_TT, float("-inf"))
    return args, kwargs | {"position_bias": bias}


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: Sequence[int] | None = None,
    target_lengths: Sequence[int] = (),
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' own attention, on one row at a time where there are lengths.

    Row by row, since rows are seldom equally long on both sides, and a product of several rows rounds by their number.

    Shapes:
        query, key, value: (1, heads, N, head size), with N of sources or targets.
        Returns (1, N, heads, head size).
    """
    if row_lengths is None:
        whole: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, **kwargs
        )
        return whole
    asking = list(target_lengths if module.is_decoder else row_lengths)
    is_across = module.is_decoder and not module.is_causal
    asked = list(row_lengths) if is_across else asking
    drop = kwargs.pop("dropout", 0.0)
    by_row = isinstance(drop, RowDropout) and drop.p > 0
    keeps: Sequence[Callable[[Tensor], Tensor] | None] = (
        drop.of_rows(len(asking), module.is_decoder) if by_row else [None] * len(asking)
    )
    dropout = 0.0 if isinstance(drop, RowDropout) else drop
    outputs = []
    # Sources may have a row of nobody more than targets.
    for q, k, v, keep in zip(query.split(asking, 2), key.split(asked, 2), value.split(asked, 2), keeps, strict=False):
        bias = None
        if position_bias is not None and not is_across:
            bias = position_bias[..., : q.shape[2], : q.shape[2]].contiguous()
        if keep is not None:
            scores = (q.contiguous() @ k.contiguous().mT) * kwargs["scaling"]
            weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
            outputs.append((keep(weights[0])[None] @ v.contiguous()).transpose(1, 2))
        else:
            made = sdpa_attention_forward(module, q, k, v, bias, dropout=dropout, is_causal=False, **kwargs)
            outputs.append(made[0])
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
