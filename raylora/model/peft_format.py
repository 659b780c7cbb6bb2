"""PEFT's names on disk, written without importing PEFT: any PEFT, vLLM or LoRAX reads the folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in ``adapter_model.safetensors``."""


def tensor_name(module: str, matrix: str) -> str:
    """Name of one matrix in ``adapter_model.safetensors``.

    Args:
        module: Dotted name of the adapted layer.
        matrix: ``lora_A`` or ``lora_B``.
    """
    return f"{PREFIX}{module}.{matrix}.weight"


def short_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The shortest ``target_modules`` that mean exactly these layers.

    Servers such as vLLM want last names (``q_proj``); they are used where they match nothing else.

    Args:
        model: The base.
        targets: Dotted names of the adapted layers.
    """
    leaves = {name.rsplit(".", 1)[-1] for name in targets}
    matched = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in leaves}
    return sorted(leaves) if matched == set(targets) else sorted(targets)


def adapter_config(
    r: int, alpha: float, dropout: float, target_modules: Sequence[str], base_name: tuple[str, str | None]
) -> dict[str, Any]:
    """The fields of ``adapter_config.json`` of a LoRA.

    Args:
        r: Rank.
        alpha: Scale of the update is ``alpha / r``.
        dropout: Probability of dropping an input in training.
        target_modules: As from :func:`short_targets`.
        base_name: Logical id and revision of the base, never a local path.
    """
    name, revision = base_name
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "r": r,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "target_modules": list(target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
