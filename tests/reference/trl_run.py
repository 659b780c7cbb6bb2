"""What both of TRL's trainers are told, and a record of what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch.utils.data import SequentialSampler
from transformers import LlamaForCausalLM, Trainer

from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from tests.reference.peft_steps import as_packed


class Recorded(Trainer):
    """Keeps what each micro-step adds to its step's loss; takes rows in their order."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*args, **settings)

    def training_step(self, *args: Any, **settings: Any) -> torch.Tensor:
        loss = super().training_step(*args, **settings)
        self.losses.append(float(loss))
        return loss

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def in_peft(spec: RunSpec, start: Adapter) -> PeftModel:
    """The run's model at its start; where its base is packed, with what packing leaves of weights."""
    config = LoraConfig(r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    base = LlamaForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32)
    model = get_peft_model(as_packed(base, spec, list(start.layers)), config)
    set_peft_model_state_dict(model, start.tensors)
    return model


def settings_of(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """The run's settings in TRL's words."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": spec.micro_batch_size,
        "gradient_accumulation_steps": spec.gradient_accumulation_steps,
        "max_steps": spec.max_steps,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": spec.warmup_steps,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
