"""What an adapter does to each layer, as matrices: W + scale B A, and DoRA's magnitudes over it.

A `StoredAdapter` enters; one `Delta` a layer leaves, AdaLoRA's with its values in A. Called by merging, combining and
exporting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex
import torch
from torch import Tensor

from raylora.adapters.config_numbers import wrong_numbers
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.adalora import VALUES
from raylora.model.dora import TINY
from raylora.model.peft_format import MAGNITUDE, PREFIX, of_pattern, tensor_name
from raylora.model.slot import RANK_EPSILON

BESIDE_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts that PEFT takes off the base: until save_pretrained converts them, B A belongs to what is left of it."""

NO_MATRIX = ("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "use_qalora")
"""Fields of PEFT's config under which a layer does not compute W + scale B A for every token."""

_NAME = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.(?P<matrix>lora_A|lora_B|{VALUES}|{MAGNITUDE})(\.weight)?")


@dataclass(frozen=True)
class Delta:
    """What trains on one linear layer.

    Args:
        module: Dotted name of the layer in the base.
        a_RI: A, float32.
        b_OR: B, float32.
        scale: What B A is multiplied by.
        magnitude_O: DoRA's, float32; ``None`` for plain LoRA.
    """

    module: str
    a_RI: Tensor
    b_OR: Tensor
    scale: float
    magnitude_O: Tensor | None = None

    @property
    def r(self) -> int:
        """Rank."""
        return self.a_RI.shape[0]

    def update(self) -> Tensor:
        """Scale B A.

        Shapes:
            Returns (O, I), float32.

        Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3.
        """
        return self.scale * (self.b_OR @ self.a_RI)

    def applied(self, weight_OI: Tensor) -> Tensor:
        """The weight that computes what base and adapter compute together.

        Args:
            weight_OI: Of the layer.

        Shapes:
            weight_OI: (O, I). Returns (O, I), float32.

        Source: DoRA, https://arxiv.org/abs/2402.09353, equation 5.
        """
        whole_OI = weight_OI.float() + self.update()
        if self.magnitude_O is None:
            return whole_OI
        norm_O: Tensor = torch.linalg.vector_norm(whole_OI, dim=1).clamp_min(TINY**0.5)  # a row of zeros stays one
        return whole_OI * (self.magnitude_O / norm_O)[:, None]


Layers = Mapping[str, Delta]
"""What an adapter does, by dotted name of the layer."""


def tensors_of(layers: Layers) -> dict[str, Tensor]:
    """A, B and magnitudes by the names of ``adapter_model.safetensors``; scales are left to a config."""
    tensors: dict[str, Tensor] = {}
    for module, delta in layers.items():
        tensors[tensor_name(module, "lora_A")] = delta.a_RI.contiguous()
        tensors[tensor_name(module, "lora_B")] = delta.b_OR.contiguous()
        if delta.magnitude_O is not None:
            tensors[tensor_name(module, MAGNITUDE)] = delta.magnitude_O
    return tensors


def deltas(adapter: StoredAdapter) -> dict[str, Delta]:
    """Sort an adapter's tensors by layer.

    Args:
        adapter: LoRA, rsLoRA or DoRA, with a rank and an alpha for each layer where its config has patterns, or
            AdaLoRA.

    Returns:
        By dotted name of the layer, in the order of the names. A layer that AdaLoRA left no rank has one of zeros.

    Raises:
        ModelError: It is of another kind, holds tensors that are no low-rank update, or shapes that do not fit.
    """
    config = adapter.config
    kind = config.get("peft_type")
    if kind not in ("LORA", "ADALORA") or config.get("bias", "none") != "none" or config.get("fan_in_fan_out"):
        raise ModelError(
            f"adapter: {adapter.uri} is {kind!r} with bias {config.get('bias')!r} and fan_in_fan_out "
            f"{config.get('fan_in_fan_out')!r}. Allowed: LORA or ADALORA without biases and with fan_in_fan_out false. "
            "Merge it with PEFT"
        )
    if (odd := _odd_field(config)) is not None:
        raise ModelError(
            f"adapter: {adapter.uri} has {odd}: {config[odd]!r}, so it is no W + scale B A over the base. Save it with "
            "PEFT's save_pretrained and path_initial_model_for_weight_conversion, or merge it with PEFT"
        )
    if wrong := wrong_numbers(config):
        raise ModelError(f"adapter: the config of {adapter.uri}: {'; '.join(wrong)}. Save it with PEFT again")
    parts: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in adapter.tensors.items():
        if (found := _NAME.fullmatch(name)) is None:
            strangers.append(name)
        else:
            parts.setdefault(found["module"], {})[found["matrix"]] = tensor.float()
    if strangers:
        raise ModelError(
            f"adapter: {adapter.uri} holds {len(strangers)} tensors that are no low-rank update of a linear layer: "
            f"{', '.join(strangers[:3])}. Merge it with PEFT"
        )
    broken = [module for module, of_module in parts.items() if not _is_whole(of_module, kind == "ADALORA")]
    if broken:
        raise ModelError(
            f"adapter: {adapter.uri} lacks a matrix, or has one of a wrong shape, at {', '.join(broken[:3])}. Copy the "
            "folder again, or save it with PEFT again"
        )
    of_layer = _folded if kind == "ADALORA" else _delta
    try:
        return {module: of_layer(config, module, parts[module]) for module in sorted(parts)}
    except (regex.error, TimeoutError) as error:
        raise ModelError(
            f"adapter: alpha_pattern of {adapter.uri}: got {config['alpha_pattern']!r}, a key of which is no regular "
            f"expression that can be matched ({error}). Allowed: names of layers, or ends of them. Correct it"
        ) from error


def _odd_field(config: Mapping[str, Any]) -> str | None:
    """A field that makes more of an adapter than its matrices; ``None`` where there is none."""
    if str(config.get("init_lora_weights")).startswith(BESIDE_ANOTHER_BASE):
        return "init_lora_weights"
    return next((name for name in NO_MATRIX if config.get(name)), None)


def _is_whole(parts: Mapping[str, Tensor], has_values: bool) -> bool:
    a_RI, b_OR, magnitude_O = parts.get("lora_A"), parts.get("lora_B"), parts.get(MAGNITUDE)
    if a_RI is None or b_OR is None or a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != b_OR.shape[1]:
        return False
    e_R1 = parts.get(VALUES)
    if a_RI.shape[0] == 0 and not has_values:  # PEFT's AdaLoRA takes a layer's last rank too
        return False
    if (e_R1 is None) == has_values or (e_R1 is not None and e_R1.shape != (a_RI.shape[0], 1)):
        return False
    return magnitude_O is None or magnitude_O.shape == b_OR.shape[:1]


def _delta(config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor]) -> Delta:
    a_RI = parts["lora_A"].contiguous()
    alpha = of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", a_RI.shape[0]))
    rank = a_RI.shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Delta(module, a_RI, parts["lora_B"].contiguous(), scale, parts.get(MAGNITUDE))


def _folded(config: Mapping[str, Any], module: str, parts: Mapping[str, Tensor]) -> Delta:
    """AdaLoRA's values multiplied into A, without the ranks whose value is zero."""
    e_R1, b_OR = parts[VALUES], parts["lora_B"]
    a_RI, left_R = e_R1 * parts["lora_A"], e_R1[:, 0] != 0
    scale = config["lora_alpha"] / (config["init_r"] + RANK_EPSILON)
    if not left_R.any():
        return Delta(module, a_RI.new_zeros(1, a_RI.shape[1]), b_OR.new_zeros(len(b_OR), 1), scale)
    return Delta(module, a_RI[left_R].contiguous(), b_OR[:, left_R].contiguous(), scale)
