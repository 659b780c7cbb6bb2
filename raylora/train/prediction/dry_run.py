"""One forward and backward pass on the meta device: the step's own code, no values, no memory.

Specs of the slots and a base on the meta device enter; the bytes that the step holds leave. Exact for any
architecture, since nothing of it is written down here. Called by `estimate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.library import _scoped_library
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.adapter.bank import AdapterBank
from raylora.model.bank.heads import without_head
from raylora.model.base.head_seat import output_head
from raylora.model.rows.route import Span
from raylora.model.rows.row_attention import attend_by_rows
from raylora.objectives.choose import readout_of
from raylora.objectives.readout import Readout
from raylora.spec.run import RunSpec
from raylora.train.allocation import penalty_of
from raylora.train.build import recompute_activations
from raylora.train.prediction.full_batches import META, Lines, full_batches
from raylora.train.prediction.live_bytes import LiveBytes


@dataclass(frozen=True)
class StepBytes:
    """What one pass holds beside the base, the adapters and their gradients.

    Args:
        penalty_bytes: Peak of what slots minimise beside their rows, before the pass.
        forward_bytes: Peak before the output head.
        loss_bytes: Peak while head and loss run, with what the forward pass keeps for the backward pass.
        logits_bytes: Of that, what head and loss take themselves.
        looking_bytes: Peak of a pass that keeps nothing for a backward pass.
        backward_bytes: Peak of the backward pass.
    """

    penalty_bytes: int
    forward_bytes: int
    loss_bytes: int
    logits_bytes: int
    looking_bytes: int
    backward_bytes: int


def dry_run(model: PreTrainedModel, bank: AdapterBank, specs: Sequence[RunSpec]) -> StepBytes:
    """Run one full micro-batch of every slot without values: lines of `sequence_len` tokens, all labelled, or files.

    Args:
        model: From `base_on_meta`, adapters attached; used up.
        bank: The adapters, on the meta device.
        specs: The runs of the slots, from slot 0; they share a base and `sequence_len`.

    Raises:
        ModelError: The model's forward pass goes by the values of its data, or several slots cannot share it.
    """
    spec = specs[0]
    model.to(META)  # type: ignore[arg-type]
    why_not = attend_by_rows(model, spec.sequence_len)
    if why_not and len(specs) > 1:
        raise ModelError(f"base_model: {why_not}, so it takes the rows of one adapter at a time; train each run alone")
    recompute_activations(model, spec)
    model.train()
    adapters = [parameter for slot in range(len(specs)) for parameter in bank.parameters(slot).values()]
    gradients = [torch.zeros_like(parameter) for parameter in adapters]
    for parameter, gradient in zip(adapters, gradients, strict=True):
        parameter.grad = gradient
    beside = [tensor for slot in range(len(specs)) for tensor in bank.frozen(slot)]
    known = [*model.parameters(), *model.buffers(), *adapters, *beside, *gradients]
    readout = readout_of(spec, model)
    passes = [
        _run(model, bank, specs, readout, LiveBytes(known), lines)
        for lines in full_batches(model, specs, why_not is None)
    ]
    parts = [field.name for field in fields(StepBytes)]
    return StepBytes(**{part: max(getattr(each, part) for each in passes) for part in parts})


def _run(
    model: PreTrainedModel,
    bank: AdapterBank,
    specs: Sequence[RunSpec],
    readout: Readout,
    live: LiveBytes,
    lines: Lines,
) -> StepBytes:
    """One pass over some lines, forward and backward."""
    before_loss: list[int] = []
    watch = output_head(model).register_forward_pre_hook(lambda *_: before_loss.extend((live.now_bytes, live.lap())))
    counts = lines.counts
    target_rows = lines.target_rows or ((),) * len(counts)
    of_slots = enumerate(zip(lines.num_tokens, lines.rows, target_rows, counts, strict=True))
    bank.route(
        [
            Span(slot, number, rows=rows, target_rows=targets, num_labelled=count)
            for slot, (number, rows, targets, count) in of_slots
        ]
    )
    try:
        with _attention_without_scores(), live, _Answers(sum(counts), lines.is_padded):
            _penalise(bank, specs)
            penalty_bytes = live.lap()
            scores = readout(lines.inputs, lines.labels_BT)
            loss_bytes = live.lap()
            torch.stack([of_slot.losses_N.sum() for of_slot in scores.split(counts)]).sum().backward()
    except (ModelError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"base_model: the forward pass of {type(model).__name__} cannot be run without data "
            f"({error.__cause__ or error}), so its memory cannot be estimated. "
            "Start it with max_steps: 1 and read the peak"
        ) from error
    finally:
        watch.remove()
    saved_bytes, forward_bytes = before_loss
    return StepBytes(
        penalty_bytes=penalty_bytes,
        forward_bytes=forward_bytes,
        loss_bytes=loss_bytes,
        logits_bytes=loss_bytes - saved_bytes,
        looking_bytes=max(forward_bytes, loss_bytes) - saved_bytes,
        backward_bytes=live.lap(),
    )


def _penalise(bank: AdapterBank, specs: Sequence[RunSpec]) -> None:
    """As the step does: of all slots at once."""
    weights = [of_slot.orth_reg_weight if of_slot.adapter == "adalora" else 0.0 for of_slot in specs]
    penalties = [penalty_of(without_head(bank.parameters(slot)), weight) for slot, weight in enumerate(weights)]
    if found := [penalty for penalty in penalties if penalty is not None]:
        torch.stack(found).sum().backward()


class _Answers(TorchDispatchMode):
    """Answers what a forward pass asks of values that are not there: yes, and as many as are labelled.

    Models ask whether a batch is without padding and without bins, the readout which tokens are labelled and whether
    its losses came through the model unchanged.

    Args:
        num_labels: Tokens with labels.
        is_padded: Whether lines have padding, which models then mask.
    """

    def __init__(self, num_labels: int, is_padded: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._num_labels, self._is_padded = num_labels, is_padded

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return not self._is_padded
        if func is torch.ops.aten.equal.default:
            return True
        if func is torch.ops.aten.nonzero.default:
            (mask,) = args
            return mask.new_empty((self._num_labels, mask.ndim), dtype=torch.int64)
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as devices run it: scores are never held, only inputs, output and one number a query.

    CPU and CUDA kernels agree on that. With dropout, or a mask that takes a gradient (T5's, where blocks run again), a
    CPU has no such kernel, and the plain formula is right.
    """
    aten: Any = torch.ops.aten
    if dropout_p or (attn_mask is not None and attn_mask.requires_grad):
        made = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )
    else:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)  # as torch does before its kernels
        made = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
    output: Tensor = made[0]
    return output


@contextmanager
def _attention_without_scores() -> Iterator[None]:
    """The meta device has no kernel of its own and would take the plain formula, which holds all scores."""
    with _scoped_library("aten", "IMPL") as meta_kernels:
        meta_kernels.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
        yield
