"""The other side of a comparison: PEFT's LoRA on transformers' model, stepped by torch as its users do."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig

from benchmarks.gpu import liger
from benchmarks.gpu.random_base import random_model
from benchmarks.workload import LEARNING_RATE
from raylora.data.collate import Batch
from raylora.spec.run import RunSpec


@dataclass(frozen=True)
class Way:
    """How PEFT is run.

    Args:
        adapter_dtype: Of the adapter's values.
        uses_liger: With Liger's kernels on the base.
    """

    adapter_dtype: torch.dtype
    uses_liger: bool = False


class PeftSide:
    """One adapter on the random base of a run.

    Args:
        config: Of the base.
        spec: The run.
        device: Where.
        way: How.
    """

    def __init__(self, config: LlamaConfig, spec: RunSpec, device: torch.device, way: Way) -> None:
        lora = LoraConfig(r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        base = random_model(config, spec, device)
        if way.uses_liger:
            liger.patch(base)
        self._device, self._dtype, self._max_grad_norm = device, base.dtype, spec.max_grad_norm
        self._positions = liger.rotary_positions if way.uses_liger else nullcontext
        self._model = get_peft_model(base, lora)
        self._model.train()
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.data = parameter.data.to(way.adapter_dtype)
        self._optimizer = torch.optim.AdamW(self._trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(self, batch: Batch) -> float:
        """Forward, backward, clip, update; returns the loss.

        Args:
            batch: Rows of one length, with loss on every token.
        """
        ids_BT = batch.input_ids_BT.to(self._device)
        with self._positions():
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                # The model shifts labels itself; a batch's are shifted already.
                loss: torch.Tensor = self._model(input_ids=ids_BT, labels=ids_BT).loss
            loss.backward()
        nn.utils.clip_grad_norm_(self._trained, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
