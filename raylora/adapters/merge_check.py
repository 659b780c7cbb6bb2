"""Whether a merged model computes what base and adapter compute together, by their logits on a few lines of text.

The adapter and its base enter before anything is written, the merged folder after; the difference leaves. The one side
is PEFT's arithmetic over raylora's loader, the other transformers' own loader: each would show what the merge got
wrong. Called by the command ``merge``.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, PeftConfig, get_peft_model, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from raylora.adapters.delta import Delta
from raylora.adapters.rounding import rounded
from raylora.adapters.stored import StoredAdapter
from raylora.data.tokenizer import load_tokenizer
from raylora.errors import InputError, RunFailedError
from raylora.model.frozen_linear import FrozenLinear
from raylora.model.load import base_on_meta, load_base
from raylora.model.meta import read_config
from raylora.model.quant import QuantFormat
from raylora.spec.run import RunSpec

PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Question: why is the sky blue by day and red in the evening?\nAnswer:",
    "1, 2, 3, 5, 8, 13,",
)

TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, of weights that were not rounded."""

READ_BY_PEFT = ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora")
"""Fields of an adapter's config that decide what its matrices do; ranks are those of the matrices."""


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

    def check(self, is_exact: bool) -> None:
        """Refuse a merged model that is another one.

        Args:
            is_exact: Whether its weights were written without rounding; what rounding changes is only told.

        Raises:
            RunFailedError: The logits differ by more than the arithmetic, or are not finite.
        """
        allowed = TOLERANCE * self.largest_logit
        if not math.isfinite(self.max_difference) or (is_exact and self.max_difference > allowed):
            raise RunFailedError(
                "merge: logits of the merged model differ from those of base and adapter by "
                f"{self.max_difference:.3g}, allowed are {allowed:.3g}; nothing was kept. Merge it with PEFT, and "
                "report the config.json of the base and the config of the adapter as a bug"
            )


@dataclass(frozen=True)
class Wanted:
    """What base and adapter compute together.

    Args:
        rows: Ids of each prompt, (1, T).
        logits: Of each prompt, (T, V), float32.
    """

    rows: Sequence[Tensor]
    logits: Sequence[Tensor]

    def compare(self, merged: Path) -> Agreement:
        """Run the merged model over the prompts, in float32.

        Args:
            merged: Its folder.
        """
        got = _logits(_loaded(merged), self.rows)
        pairs = list(zip(self.logits, got, strict=True))
        return Agreement(
            max_difference=float(torch.stack([(theirs - ours).abs().max() for theirs, ours in pairs]).max()),
            largest_logit=float(torch.stack([theirs.abs().max() for theirs in self.logits]).max()),
            argmax_agrees=all(torch.equal(theirs.argmax(-1), ours.argmax(-1)) for theirs, ours in pairs),
        )


def check_memory(num_bytes: int) -> None:
    """Refuse a comparison for which there is no memory, before it ends the process.

    Args:
        num_bytes: Of the base in float32.

    Raises:
        InputError: Less is free.
    """
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise InputError(
            f"merge: comparing logits takes the base in float32, {num_bytes / 1e9:,.1f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are free. Free some, or leave the comparison out with --no-check"
        )


def wanted_logits(
    adapter: StoredAdapter, found: Mapping[str, Delta], base: Path, rounding: QuantFormat | None = None
) -> Wanted:
    """Run base and adapter over the prompts, in float32.

    Args:
        adapter: What is to be merged.
        found: Its deltas.
        base: Folder of the base.
        rounding: Format to whose values its linear layers but the head are rounded first.

    Raises:
        ModelError: The base has no tokenizer that can be loaded, or cannot be loaded itself.
        RunFailedError: The tokenizer makes no tokens of a text.
    """
    rows = _rows(base)
    logits = _logits(_attached(adapter, found, base, rounding), rows)
    gc.collect()  # modules refer to each other, so this model would stay beside what comes next
    return Wanted(rows, logits)


def _rows(base: Path) -> list[Tensor]:
    tokenizer = load_tokenizer(base)
    lists: list[Any] = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    rows = [torch.tensor([ids]) for ids in lists if ids]
    if not rows:
        raise RunFailedError(f"merge: the tokenizer of {base} makes no tokens of a text; use --no-check")
    return rows


@torch.no_grad()
def _logits(model: nn.Module, rows: Sequence[Tensor]) -> list[Tensor]:
    return [model(row).logits[0].float() for row in rows]


def _attached(
    adapter: StoredAdapter, found: Mapping[str, Delta], base: Path, rounding: QuantFormat | None
) -> nn.Module:
    """The base with the adapter in PEFT's modules, as PEFT reads its config."""
    fields = {"base_model": str(base), "dtype": "float32", "datasets": [{"path": "none"}]}
    model = base_on_meta(read_config(base), RunSpec.model_validate(fields), torch.float32)
    load_base(model, base, torch.device("cpu"), lambda part: None)
    if rounding is not None:
        for layer in model.modules():
            if isinstance(layer, FrozenLinear):
                layer.weight.data = rounded(rounding, layer.weight.data)
    if adapter.config["peft_type"] == "ADALORA":
        nameless: dict[str, Any] = {**adapter.config, "base_model_name_or_path": None}
        whole: nn.Module = get_peft_model(model, PeftConfig.from_peft_type(**nameless))
        set_peft_model_state_dict(whole, dict(adapter.tensors))
        return whole.eval()
    ranks = {module: delta.r for module, delta in found.items()}
    r = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != r}
    said: dict[str, Any] = {name: adapter.config[name] for name in READ_BY_PEFT if adapter.config.get(name) is not None}
    config = LoraConfig(r=r, rank_pattern=others, target_modules=list(ranks), **said)
    attached = inject_adapter_in_model(config, model)
    set_peft_model_state_dict(attached, dict(adapter.tensors))
    return attached.eval()


def _loaded(folder: Path) -> nn.Module:
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    loaded: nn.Module = model.eval()
    return loaded
