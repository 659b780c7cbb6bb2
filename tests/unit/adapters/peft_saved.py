"""Adapters of random values as PEFT saves them, and what PEFT answers with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.train.sample import Chat, as_text

ENDS = [2, 3]
"""What ends an answer of a tiny base: by its config, and by its tokenizer."""


def save_peft(base: Path, folder: Path, seed: int = 1, **fields: Any) -> Path:
    """Save an adapter that changes what a base answers; the same seed and fields give the same values."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(**{**settings, **fields}))
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        elif "lora_" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def said_by_peft(base: Path, folder: Path | None, chat: Chat, max_new_tokens: int) -> str:
    """What a base answers with an adapter, or alone."""
    tokenizer = load_tokenizer(base)
    ids_1T = tokenizer(as_text(tokenizer, chat), return_tensors="pt", add_special_tokens=False)["input_ids"]
    written_T = _written(_model(base, folder), ids_1T, max_new_tokens)
    return str(tokenizer.decode(written_T, skip_special_tokens=True)).strip()


def _model(base: Path, folder: Path | None) -> Any:
    model = LlamaForCausalLM.from_pretrained(base)
    return (model if folder is None else PeftModel.from_pretrained(model, folder)).eval()


@torch.no_grad()
def _written(model: Any, ids_1T: Tensor, max_new_tokens: int) -> Tensor:
    output = model.generate(
        input_ids=ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ENDS,
        pad_token_id=0,
    )
    return output[0, ids_1T.shape[1] :]
