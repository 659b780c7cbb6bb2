"""PEFT's names on disk, written without importing PEFT: any PEFT, vLLM or LoRAX reads the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from torch import nn

from raylora.model.adapter.slot import Slot
from raylora.spec.text.pattern import matching

MAGNITUDE = "lora_magnitude_vector"
"""DoRA's magnitudes."""

VECTORS = (MAGNITUDE, "vera_lambda_d", "vera_lambda_b")
"""Tensors of an adapter that are no matrices and have no ``.weight`` after their names."""

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in ``adapter_model.safetensors``."""

PATTERN_TIMEOUT_S = 2.0
"""Longest search with one key of a pattern."""


def tensor_name(module: str, matrix: str, bare: bool = False) -> str:
    """Name of one tensor in ``adapter_model.safetensors``.

    Args:
        module: Dotted name of the adapted layer.
        matrix: ``lora_A`` or ``lora_B``, or one of the `VECTORS`.
        bare: Whether PEFT holds the matrices as parameters, as it does AdaLoRA's, and not in modules with a weight.
    """
    return f"{PREFIX}{module}.{matrix}" if bare or matrix in VECTORS else f"{PREFIX}{module}.{matrix}.weight"


def of_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """A layer's own rank or alpha out of ``rank_pattern`` or ``alpha_pattern``.

    PEFT's keys are regular expressions for a dotted name, or for the end of one.

    Args:
        patterns: Of ``adapter_config.json``; the first key that matches counts.
        module: Dotted name of the layer.
        default: Where none matches.
    """
    for pattern, value in (patterns or {}).items():
        if matching(rf"(.*\.)?({pattern})", [module], PATTERN_TIMEOUT_S):
            return float(value)
    return float(default)


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


def adapter_config(settings: Slot, target_modules: Sequence[str], base_name: tuple[str, str | None]) -> dict[str, Any]:
    """The fields of ``adapter_config.json``.

    An adapter that started from the base is one of twice the rank, its start being the second half, and of the alpha
    that leaves the scale as it was. Of AdaLoRA the ranks are left out, and the steps, which decide them. However A and
    B started, it is an adapter over the base as it is.

    Args:
        settings: Of the adapter.
        target_modules: As from :func:`short_targets`.
        base_name: Logical id and revision of the base, never a local path.
    """
    if settings.vera is not None:
        own = {
            "peft_type": "VERA",
            "r": settings.r,
            "projection_prng_key": settings.vera.projection_prng_key,
            "save_projection": False,
            "vera_dropout": settings.dropout,
            "d_initial": settings.vera.d_initial,
            "init_weights": True,
        }
        return _common(target_modules, base_name) | own
    if settings.use_adalora:
        own = {
            "peft_type": "ADALORA",
            "init_r": settings.r,
            "lora_alpha": _number(settings.alpha),
            "lora_dropout": settings.dropout,
            "init_lora_weights": True,
        }
        return _common(target_modules, base_name) | own
    r, alpha = settings.r, settings.alpha
    if settings.starts_from_base:
        r, alpha = 2 * r, alpha * (math.sqrt(2) if settings.use_rslora else 2)
    return _common(target_modules, base_name) | {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": _number(alpha),
        "lora_dropout": settings.dropout,
        "init_lora_weights": "gaussian" if settings.init_lora_weights == "gaussian" else True,
        "use_dora": settings.use_dora,
        "use_rslora": settings.use_rslora,
    }


def own_config(fields: Mapping[str, Any], base_name: tuple[str, str | None]) -> dict[str, Any]:
    """The fields of ``adapter_config.json`` of an adapter that was asked for as PEFT's own.

    Args:
        fields: Of PEFT's config, as it writes them; sets become sorted lists and enumerations their values.
        base_name: As of :func:`adapter_config`.
    """
    name, revision = base_name
    of_base = {"base_model_name_or_path": name, "revision": revision, "inference_mode": True}
    return {field: _plain(value) for field, value in fields.items()} | of_base


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _common(target_modules: Sequence[str], base_name: tuple[str, str | None]) -> dict[str, Any]:
    name, revision = base_name
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "target_modules": list(target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
