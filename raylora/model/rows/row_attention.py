"""Attention row by row: rows lie one after the other on one line without padding, and none sees another.

A model enters, on the meta device or filled; it leaves taking ``row_lengths`` beside ids and positions of shape [1, N],
the positions starting again with each row. No mask over pairs of tokens is made, each row is computed as if it were
alone, and without ``row_lengths`` the model is transformers' own. The lengths travel as a keyword argument, which a
block that runs again in the backward pass is given again. Called where a model is made for training.

Encoders' rows lie so as well: padded to a common length, each would cost what the longest row of all slots does, and
round otherwise than alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from raylora.errors import ModelError
from raylora.model.base.task_class import TWO_SIDES, sees_both_sides
from raylora.model.rows.bins import shortest_window, why_not_by_rows
from raylora.model.rows.first_tokens import first_tokens
from raylora.model.rows.row_dropout import RowDropout
from raylora.model.rows.two_sided_attention import attend_by_rows_of_both

NAME = "raylora_sdpa_by_rows"
"""The attention's name in transformers' registry; with ``sdpa`` in it, transformers asks the model for support."""


@dataclass
class _Pass:
    """A forward pass that was given lengths, and how often they reached the attention."""

    row_lengths: tuple[int, ...] = ()
    is_causal: bool = True
    num_attended: int = 0


_pass: ContextVar[_Pass | None] = ContextVar("raylora_row_pass", default=None)


def attend_by_rows(model: PreTrainedModel, longest_row: int) -> str | None:
    """Let a model take rows one after the other: ``model(input_ids, position_ids=..., row_lengths=(5, 7, 7))``.

    A pass over two short rows tells whether the lengths reach the attention; each later pass is watched for it too,
    and raises a ModelError where they do not, or where a row is longer than a layer's window.

    Args:
        model: Changed in place; its parameters may be on the meta device.
        longest_row: Tokens of the longest row that it will be given, at least 1.

    Returns:
        ``None``, or why the model cannot, which is then as it was. A model that takes no token ids stays as it is, too:
        its rows are of one length, and those of any number of slots lie one below the other.
    """
    if model.main_input_name != "input_ids":
        return None
    if model.config.model_type in TWO_SIDES:
        attend_by_rows_of_both(model)
        return None
    reason = why_not_by_rows(model, longest_row)
    before = model.config._attn_implementation
    if reason or before == NAME:
        return reason
    model.set_attn_implementation(NAME)
    watch = _Watch(model)
    try:
        _try_out(model, watch)
    except ModelError as error:
        watch.remove()
        model.set_attn_implementation(before)
        return str(error)
    return None


class _Watch:
    """Starts each pass that is given lengths, and refuses one in which they did not reach every layer.

    Args:
        model: Whose passes are watched.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._window = shortest_window(model)
        self._num_layers = model.config.get_text_config().num_hidden_layers
        self._is_causal = not sees_both_sides(model.config)
        self.last = _Pass()
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]
        poolers = [module for module in model.modules() if type(module).__name__.endswith("Pooler")]
        self._handles += [pooler.register_forward_pre_hook(_pool_rows) for pooler in poolers]

    def remove(self) -> None:
        """Let the model go."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        row_lengths, positions = kwargs.get("row_lengths"), kwargs.get("position_ids")
        if row_lengths is None:
            return None
        if positions is None or kwargs.get("attention_mask") is not None:
            raise _refusal(model, "got row_lengths with a mask, or without position_ids")
        if self._window is not None and max(row_lengths) > self._window:
            raise _refusal(model, f"has a window of {self._window} tokens, and a row has {max(row_lengths)}")
        self.last = _Pass(tuple(row_lengths), self._is_causal)
        _pass.set(self.last)
        # A mask of four axes is handed on as it is, so none is made; whoever adds an empty one to scores fails.
        return args, kwargs | {"attention_mask": torch.empty(1, 1, 0, 0, device=positions.device)}

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ran = _pass.get()
        _pass.set(None)
        if ran is not None and output is not None and ran.num_attended < self._num_layers:  # no output: it raised
            raise _refusal(model, f"attends by rows in {ran.num_attended} of {self._num_layers} layers")


def _try_out(model: PreTrainedModel, watch: _Watch) -> None:
    ids_1N = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    inputs = {"input_ids": ids_1N, "position_ids": ids_1N, "row_lengths": (1, 1), "use_cache": False}
    buffers = {name: buffer.to(model.device) for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            torch.func.functional_call(model, buffers, (), inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        # Without weights a block may fail for want of values (experts do), but not before its attention.
        if not watch.last.num_attended:
            raise _refusal(model, f"cannot attend by rows ({error})") from error


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' own attention, on each run of rows of one length where there are lengths.

    Shapes:
        query, key, value: (1, heads, N, head size), with fewer heads of key and value under grouped queries.
        Returns (1, N, heads, head size).
    """
    running = _pass.get()
    if row_lengths is None:
        if running is not None:
            raise _refusal(module, "loses row_lengths on the way to its attention")
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output
    _check_plain(module, query, key, attention_mask, row_lengths, kwargs)
    if running is not None:  # None in the backward pass, where a block runs again
        if _is_causal(module, kwargs) is not running.is_causal:
            does = "lets tokens see" if running.is_causal else "hides from tokens"
            raise _refusal(module, f"{does} those after them")
        running.num_attended += 1
    drop = getattr(module, "dropout", None)
    if kwargs.get("dropout") and isinstance(drop, RowDropout):
        return _attend_and_drop(drop, query, key, value, row_lengths, kwargs["scaling"])[None], None
    # A kernel that takes rows of any lengths at once (varlen) would replace what follows.
    runs = [(len(list(rows)), length) for length, rows in groupby(row_lengths)]
    sizes = [num_rows * length for num_rows, length in runs]
    # split, since the backward pass of a slice fills the whole line with zeros.
    parts = zip(runs, query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    outputs = [
        sdpa_attention_forward(module, _stack(q, n), _stack(k, n), _stack(v, n), None, **kwargs)[0].flatten(0, 1)
        for (n, _), q, k, v in parts
    ]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _attend_and_drop(
    drop: RowDropout, query: Tensor, key: Tensor, value: Tensor, row_lengths: Sequence[int], scaling: float
) -> Tensor:
    """Attention of an encoder that drops weights, which torch's kernels would draw for all rows at once.

    Row by row, since a product of several rows rounds by their number.
    """
    parts = (each[0].split(list(row_lengths), dim=1) for each in (query, key, value))
    outputs = []
    for of_row, q, k, v in zip(drop.of_rows(len(row_lengths)), *parts, strict=True):
        weights_HTT = torch.softmax((q.contiguous() @ k.contiguous().mT) * scaling, dim=-1)
        outputs.append((of_row(weights_HTT) @ v.contiguous()).transpose(0, 1))
    return torch.cat(outputs)


def _stack(line: Tensor, num_rows: int) -> Tensor:
    """Rows of one length one below the other, as a view: (1, heads, N, size) -> (rows, heads, length, size)."""
    rows: Tensor = line[0].unflatten(1, (num_rows, -1))
    return rows.transpose(0, 1)


def _check_plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    row_lengths: Sequence[int],
    kwargs: dict[str, Any],
) -> None:
    """Refuse attention that is more than plain attention within each row of one line."""
    if (attention_mask is not None and attention_mask.numel()) or kwargs.get("position_bias") is not None:
        raise _refusal(module, "adds to the scores of pairs of tokens")
    if kwargs.get("softcap") is not None:
        raise _refusal(module, "caps its attention's scores")
    if (kwargs.get("sliding_window") or max(row_lengths)) < max(row_lengths):
        raise _refusal(module, f"has a window of {kwargs['sliding_window']} tokens, and a row {max(row_lengths)}")
    is_one_line = query.shape[0] == 1 and query.shape[2] == key.shape[2] == sum(row_lengths)
    if not is_one_line or min(row_lengths) < 1:
        raise _refusal(module, f"got {tuple(query.shape)} queries, {tuple(key.shape)} keys for rows {row_lengths}")


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    asked = kwargs.get("is_causal")
    found: bool = getattr(module, "is_causal", True) if asked is None else asked
    return found


def _pool_rows(pooler: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Give a pooler, which takes the first token of a line, that of each row."""
    running = _pass.get()
    return None if running is None else (first_tokens(args[0], running.row_lengths),)


def _refusal(module: nn.Module, what: str) -> ModelError:
    return ModelError(
        f"base_model: {type(module).__name__} {what}, so rows on one line would not be trained as they are alone. "
        "Report this model's config.json"
    )


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
