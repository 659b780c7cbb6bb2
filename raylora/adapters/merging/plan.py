"""What merging will write, from headers alone: which tensor gets which update, in which dtype and how many bytes.

What an adapter changes and its base enter; a plan, or every reason why they do not fit, leaves. Called before anything
is written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.adapters.merging.rounding import Holding, format_of
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.base.file_names import present_names
from raylora.model.base.folder import weight_files
from raylora.model.base.meta import meta_model, read_config
from raylora.model.base.quant import QuantFormat
from raylora.model.source.digest import TensorBytes, tensors_in
from raylora.model.source.source import BaseFolder
from raylora.spec.fields.holding import FIELDS, PLAIN

FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Dtypes, in the words of safetensors, that are merged into and cast; tensors of any other are copied."""

HELD_IN = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a lineage says that a run computed in; one of before does not say it, and is taken for float32."""

EXACT, OF_16_BITS = 1e-3, 0.1
"""Largest difference of logits, relative to the largest: what arithmetic in float32 comes to, and what no rounding to
16 bits should reach."""

PACKED_FROM = (torch.float32, torch.bfloat16, torch.float16)

MOST_NAMED = 5
"""Problems that a message spells out."""


class Change(Protocol):
    """What an adapter does to a tensor of its base."""

    @property
    def module(self) -> str:
        """Dotted name of the layer."""

    @property
    def tensor(self) -> str:
        """Name of the tensor in the model."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That the tensor must have."""

    def applied(self, weight_OI: Tensor) -> Tensor:
        """The tensor that computes what base and adapter compute together, float32.

        Args:
            weight_OI: As the base has it.
        """


@dataclass(frozen=True)
class MergeSettings:
    """How merged weights are written.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``auto`` keeps that of each tensor.
        max_shard_bytes: Most bytes of tensors in a file, above 0.
        requantize: ``nf4``, ``fp4`` or ``int8``, to whose values all linear layers but the output head are rounded.
        chat_template: Jinja text in place of the base's own; what the adapter was trained with.
    """

    dtype: str = "auto"
    max_shard_bytes: int = 5 * 10**9
    requantize: str | None = None
    chat_template: str | None = None


@dataclass(frozen=True)
class MergePlan:
    """What will be written.

    Args:
        base: What is merged into.
        settings: As they were asked for.
        changes: By name of the tensor in the base's files, which may be another one than the model's of today.
        dtypes: Written dtype of every float tensor of the base, by that name.
        sizes: Written bytes of every tensor, by name, in the order of the files.
        linear: Names of the weights that a quantized base holds packed.
        trained_on: How the base that the adapter was trained on was held; ``None`` where it was not quantized.
        is_into_rounded: Whether it is merged into that base as it was quantized, which it belongs to.
    """

    base: BaseFolder
    settings: MergeSettings
    changes: Mapping[str, Change]
    dtypes: Mapping[str, torch.dtype]
    sizes: Mapping[str, int]
    linear: frozenset[str]
    trained_on: Holding | None
    is_into_rounded: bool = False

    @property
    def rounding(self) -> Holding | None:
        """How the base's weights are rounded before anything is added."""
        return self.trained_on if self.is_into_rounded else None

    @property
    def dtype(self) -> str:
        """Dtype of most of what is written."""
        num_bytes: Counter[torch.dtype] = Counter()
        for name, dtype in self.dtypes.items():
            num_bytes[dtype] += self.sizes[name]
        return str(num_bytes.most_common(1)[0][0]).removeprefix("torch.")

    @property
    def tolerance(self) -> float | None:
        """Largest difference of logits that writing may cause, relative to the largest; ``None`` where any may be."""
        if self.settings.requantize is not None:
            return None
        return EXACT if set(self.dtypes.values()) <= {torch.float32, torch.float64} else OF_16_BITS

    @property
    def requantize(self) -> QuantFormat | None:
        """Format to whose values weights are rounded."""
        return format_of(self.settings.requantize) if self.settings.requantize else None


def plan_merge(
    adapter: StoredAdapter, found: Mapping[str, Change], base: BaseFolder, settings: MergeSettings
) -> MergePlan:
    """Find the tensor of each adapted layer.

    Args:
        adapter: What is merged.
        found: What it changes.
        base: What it is merged into.
        settings: How it is written.

    Raises:
        ModelError: A layer has no tensor in the base, one of another shape or dtype, or one that is the embedding's
            too; weights of their dtype cannot be rounded as asked; or the adapter belongs to a quantized base and does
            not say to which. All at once.
    """
    held = {entry.name: entry for file in weight_files(base.path) for entry in tensors_in(file)}
    model = meta_model(read_config(base.path), torch.float32)
    in_files = {present: name for name, present in present_names(model, held).items()}
    dtypes = {
        name: FLOATS[entry.dtype] if settings.dtype == "auto" else getattr(torch, settings.dtype)
        for name, entry in held.items()
        if entry.dtype in FLOATS
    }
    linear = frozenset(in_files[present] for present in _packed_weights(model) & in_files.keys())
    said = str(adapter.about.get("quantization") or PLAIN)
    form = format_of(said) if said in FIELDS else None
    trained_on = None if form is None else Holding(form, HELD_IN.get(str(adapter.about.get("dtype")), torch.float32))
    tied = _tied(model)
    entries = {present: held[name] for present, name in in_files.items()}
    problems = [problem for change in found.values() if (problem := _misfit(change, entries, tied))]
    if said not in FIELDS:
        problems.append(f"its lineage says that its base was held as {said!r}. Allowed: {', '.join(FIELDS)}")
    elif adapter.is_of_quantized_base and trained_on is None:
        problems.append("it started as LoftQ over a quantized base, and its lineage does not say how that was held")
    if settings.requantize:
        problems += [
            f"{name} is of {held[name].dtype}, which is not packed; say --dtype"
            for name in sorted(linear)
            if dtypes.get(name) not in PACKED_FROM
        ]
    if problems:
        raise ModelError(
            f"adapter: {adapter.uri} cannot be merged into {base.name}, {len(problems)} problems: "
            f"{'; '.join(problems[:MOST_NAMED])}. Nothing was written. Name the base it was trained on with --base, in "
            "a folder that transformers' save_pretrained wrote, or merge it with PEFT"
        )
    return MergePlan(
        base=base,
        settings=settings,
        changes={in_files[change.tensor]: change for change in found.values()},
        dtypes=dtypes,
        sizes={name: _num_bytes(entry, dtypes.get(name)) for name, entry in held.items()},
        linear=linear,
        trained_on=trained_on,
        is_into_rounded=adapter.is_of_quantized_base,
    )


def _misfit(change: Change, entries: Mapping[str, TensorBytes], tied: Mapping[str, str]) -> str | None:
    """Why a change cannot be merged into one of the tensors, by present name; ``None`` where it can."""
    entry, module, shape = entries.get(change.tensor), change.module, change.shape
    if module in tied:
        return f"{module} shares its weight with the {tied[module]}, which has no update"
    if entry is None:
        return f"{module} has no tensor {change.tensor} in the base's files"
    if entry.dtype not in FLOATS:
        return f"{entry.name} is of {entry.dtype}, allowed are {', '.join(FLOATS)}"
    if entry.shape != shape:
        return f"{entry.name} is {' x '.join(map(str, entry.shape))}, its update {' x '.join(map(str, shape))}"
    return None


def _packed_weights(model: PreTrainedModel) -> set[str]:
    """Weights that `load.freeze_linears` has packed."""
    head = model.get_output_embeddings()
    return {
        f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear and module is not head
    }


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """Head and embedding by dotted name, where they have one weight, each with what the other is."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not getattr(embedding, "weight", None):
        return {}
    others = {id(head): "embedding", id(embedding): "output head"}
    return {name: others[id(module)] for name, module in model.named_modules() if id(module) in others}


def _num_bytes(entry: TensorBytes, dtype: torch.dtype | None) -> int:
    return entry.num_bytes if dtype is None else math.prod(entry.shape) * dtype.itemsize
