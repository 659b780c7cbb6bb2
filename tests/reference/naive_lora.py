"""LoRA as the paper writes it, on whole logits, one optimizer of torch: the oracle of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from raylora.data.collate import Batch
from raylora.model.base.load import quant_format
from raylora.spec.run import RunSpec

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class NaiveLora(nn.Module):
    """y = W x + (alpha / r) B A x."""

    def __init__(self, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / a_RI.shape[0]
        self.a_RI, self.b_OR = nn.Parameter(a_RI.clone()), nn.Parameter(b_OR.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.a_RI.T) @ self.b_OR.T


def base_of(spec: RunSpec) -> LlamaForCausalLM:
    """The base as transformers loads it; where it is to be packed, with the weights that packing leaves."""
    model = LlamaForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32)
    form = quant_format(spec, torch.float32)
    if form is not None:
        for layer in model.model.modules():
            if isinstance(layer, nn.Linear):
                shape = (layer.out_features, layer.in_features)
                layer.weight.data = form.unpack(form.pack(layer.weight.data), shape, torch.float32)
    return model


def add_naive_lora(model: nn.Module, start: Mapping[str, Tensor], alpha: float) -> None:
    """Put an adapter into a model, by the names of its file."""
    model.requires_grad_(False)
    for name in [
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in start if "lora_A" in key
    ]:
        parent, _, leaf = name.rpartition(".")
        a, b = (start[f"base_model.model.{name}.{matrix}.weight"] for matrix in ("lora_A", "lora_B"))
        setattr(model.get_submodule(parent), leaf, NaiveLora(model.get_submodule(name), a, b, alpha))


def train_plainly(
    model: nn.Module, steps: Sequence[Sequence[Batch]], rates: Sequence[float], make: Optimizer, max_norm: float
) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of some steps: the mean over a step's labels, clipped, one update.

    A group of the optimizer may have a ``rate``, a multiple of the step's.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses, norms = make(trained), [], []
    for batches, rate in zip(steps, rates, strict=True):
        num_labels = sum(int((batch.labels_BT != -100).sum()) for batch in batches)
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            logits = model(input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT).logits
            # In float64, since torch's float32 kernel is off by 8e-6 over a vocabulary of 49,152.
            total = F.cross_entropy(logits.double().flatten(0, 1), batch.labels_BT.flatten(), reduction="sum")
            loss = total / num_labels
            loss.backward()
            losses[-1] += loss.item()
        norms.append(float(nn.utils.clip_grad_norm_(trained, max_norm or float("inf"))))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        optimizer.step()
    return losses, norms
