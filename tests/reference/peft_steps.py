"""Ten steps of a run's model in PEFT, over transformers' own loss, from a base with what packing leaves of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.model.base.load import quant_format
from raylora.spec.run import RunSpec

RATES = [0.0, 4e-3, 5e-3, 4e-3, 4e-3, 3e-3, 2e-3, 2e-3, 1e-3, 1e-3]
SETTINGS = {"gradient_accumulation_steps": 2, "micro_batch_size": 3, "max_grad_norm": 1.4, "weight_decay": 0.05}
BASES = {"plain": {}, "int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True}}


def as_packed(model: PreTrainedModel, spec: RunSpec, adapted: Sequence[str]) -> PreTrainedModel:
    """The same model; where the run packs its base, with what packing leaves of weights."""
    form = quant_format(spec, torch.float32)
    for name in adapted if form is not None else ():
        layer = model.get_submodule(name)
        shape = (layer.out_features, layer.in_features)
        layer.weight.data = form.unpack(form.pack(layer.weight.data), shape, torch.float32)
    return model


def train_in_peft(
    spec: RunSpec, model: PeftModel, rows: Batches, taken: Callable[[Batch], dict[str, torch.Tensor]]
) -> tuple[list[float], list[float]]:
    """Losses and norms of steps over transformers' own loss: a mean of a micro-batch, weighed by its labels.

    Args:
        spec: The run.
        model: At its start.
        rows: Of the run.
        taken: A micro-batch as transformers takes it.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=spec.weight_decay)
    losses, norms = [], []
    for step, rate in enumerate(RATES):
        batches = rows.step(step, 0, 1)
        num_labels = sum(batch.num_label_tokens for batch in batches)
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            loss = model(**taken(batch)).loss * batch.num_label_tokens / num_labels
            loss.backward()
            losses[-1] += loss.item()
        norms.append(float(nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return losses, norms
