"""An adapter's tensors sorted by layer, as matrices: LoRA and its kin, AdaLoRA with its values in A, VeRA as LoRA.

A `StoredAdapter` enters, and for VeRA the place of its base; one `Delta` a layer leaves, or why there is none. Called
by all that works with what an adapter computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import regex
from torch import Tensor

from raylora.adapters.base import BasePlace
from raylora.adapters.config_numbers import wrong_numbers
from raylora.adapters.delta import Delta
from raylora.adapters.projected import SHARED, projected
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.adapter.adalora import VALUES
from raylora.model.adapter.peft_format import MAGNITUDE, PREFIX, VECTORS, of_pattern
from raylora.model.adapter.slot import RANK_EPSILON
from raylora.model.adapter.vera import B, D

KINDS = ("LORA", "ADALORA", "VERA")
"""PEFT's kinds whose update is a product of two matrices."""

BESIDE_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts that PEFT takes off the base: until save_pretrained converts them, B A belongs to what is left of it."""

NO_MATRIX = ("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "use_qalora")
"""Fields of PEFT's config under which a layer does not compute W + scale B A for every token."""

_MATRICES = ("lora_A", "lora_B", VALUES, *VECTORS)
_NAME = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.(?P<matrix>{'|'.join(_MATRICES)})(\.weight)?")

Parts = Mapping[str, Tensor]
"""Tensors of one layer by what they are."""


def deltas(adapter: StoredAdapter, place: BasePlace | None = None) -> dict[str, Delta]:
    """Sort an adapter's tensors by layer.

    Args:
        adapter: LoRA, rsLoRA or DoRA, with a rank and an alpha for each layer where its config has patterns; or AdaLoRA
            or VeRA.
        place: Where its base is; where the adapter's config says, if ``None``. Only its config is read, and only for
            VeRA, whose vectors do not say how many inputs a layer has.

    Returns:
        By dotted name of the layer, in the order of the names. A layer that AdaLoRA left no rank has one of zeros.

    Raises:
        ModelError: It is of another kind, holds tensors that are no low-rank update, or shapes that do not fit; or the
            base of VeRA is not there.
        StoreError: Storage cannot be read.
    """
    config = adapter.config
    parts = _sorted(adapter)
    _check_shapes(adapter, parts)
    try:
        match config["peft_type"]:
            case "VERA":
                return projected(adapter, parts, place)
            case "ADALORA":
                return {module: _folded(config, module, parts[module]) for module in sorted(parts)}
        return {module: _plain(config, module, parts[module]) for module in sorted(parts)}
    except (regex.error, TimeoutError) as error:
        raise ModelError(
            f"adapter: alpha_pattern of {adapter.uri}: got {config['alpha_pattern']!r}, a key of which is no regular "
            f"expression that can be matched ({error}). Allowed: names of layers, or ends of them. Correct it"
        ) from error


def check_matrices(adapter: StoredAdapter) -> None:
    """Find out that an adapter's matrices belong together, as far as that is known without its base.

    Args:
        adapter: Of any type; one whose layers PEFT alone knows, convolutions among them, is left to PEFT.

    Raises:
        ModelError: A layer lacks a matrix, or has one that is empty or of a wrong shape.
    """
    if adapter.config.get("peft_type") in KINDS and _odd_field(adapter.config) is None:
        parts = {name: of for name, of in _by_layer(adapter)[0].items() if all(each.ndim <= 2 for each in of.values())}
        if parts:
            _check_shapes(adapter, parts)


def reads_base(adapter: StoredAdapter) -> bool:
    """Whether `deltas` makes an adapter's matrices after the layers of its base, so that another base gives others.

    Args:
        adapter: Of any type.
    """
    return adapter.config.get("peft_type") == "VERA"


def needs_peft(adapter: StoredAdapter) -> bool:
    """Whether an adapter is more than two matrices a layer, so that PEFT's own modules compute it.

    Args:
        adapter: Of any type. What is neither the one nor the other is refused by `deltas`.
    """
    config, kind = adapter.config, adapter.config.get("peft_type")
    if kind not in KINDS:
        return True
    odd = _odd_field(config)
    if kind == "ADALORA" or config.get("bias", "none") != "none" or odd not in (None, "use_qalora"):
        return False
    return bool(odd or config.get("fan_in_fan_out") or _by_layer(adapter)[1])


def why_other_task(config: Mapping[str, Any]) -> str | None:
    """Say what an adapter was trained for; ``None`` where that is the next token, or is not said.

    Args:
        config: Of the adapter.
    """
    if (task := config.get("task_type")) in (None, "CAUSAL_LM"):
        return None
    beside = ", with a head beside it" if config.get("modules_to_save") else ""
    return (
        f"was trained for {task}{beside}. Allowed here: CAUSAL_LM. Load it with PEFT's PeftModel over the class of "
        "transformers for that task, on the same base"
    )


def _sorted(adapter: StoredAdapter) -> dict[str, dict[str, Tensor]]:
    """All tensors but those that layers share, float32, by layer.

    Raises:
        ModelError: All that makes more of the adapter than two matrices a layer over the base as it is.
    """
    config, kind = adapter.config, adapter.config.get("peft_type")
    if kind not in KINDS:
        raise ModelError(f"adapter: {adapter.uri} is {kind!r}. Allowed: {', '.join(KINDS)}. {_way_out(adapter)}")
    problems = []
    if (other := why_other_task(config)) is not None:
        problems.append(other)
    if config.get("bias", "none") != "none" or config.get("fan_in_fan_out"):
        problems.append(
            f"has bias {config.get('bias')!r} and fan_in_fan_out {config.get('fan_in_fan_out')!r}. Allowed: no biases, "
            "and fan_in_fan_out false. Merge it with PEFT"
        )
    if (odd := _odd_field(config)) is not None:
        problems.append(
            f"has {odd}: {config[odd]!r}, so it is no W + scale B A over the base. Save it with PEFT's save_pretrained "
            "and path_initial_model_for_weight_conversion, or merge it with PEFT"
        )
    if wrong := wrong_numbers(config):
        problems.append(f"has in its config {'; '.join(wrong)}. Save it with PEFT again")
    parts, strangers = _by_layer(adapter)
    if strangers:
        problems.append(
            f"holds {len(strangers)} tensors that are no low-rank update of a linear layer: "
            f"{', '.join(strangers[:3])}. Merge it with PEFT"
        )
    if problems:
        raise ModelError("\n".join(f"adapter: {adapter.uri} {problem}" for problem in problems))
    return parts


def _way_out(adapter: StoredAdapter) -> str:
    """What to do with an adapter of another kind."""
    from raylora.model.bank.peft_config import is_held  # seconds of import that only these adapters need

    if (other := why_other_task(adapter.config)) is not None:
        return f"It {other}"
    if is_held(adapter.config.get("peft_type")):
        return f"Merge it: raylora merge {adapter.uri} --out FOLDER"
    return "Load it with PEFT's PeftModel, and merge it with PEFT where its type can be"


def _by_layer(adapter: StoredAdapter) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by layer and by what they are, and the names of those that are of no layer."""
    parts: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for name, tensor in adapter.tensors.items():
        if adapter.config["peft_type"] == "VERA" and name in SHARED:
            continue
        if (found := _NAME.fullmatch(name)) is None:
            strangers.append(name)
        else:
            parts.setdefault(found["module"], {})[found["matrix"]] = tensor.float()
    return parts, strangers


def _check_shapes(adapter: StoredAdapter, parts: Mapping[str, Parts]) -> None:
    is_whole = {"LORA": _has_matrices, "ADALORA": _has_values, "VERA": _has_vectors}[adapter.config["peft_type"]]
    broken = [module for module, of_module in parts.items() if not is_whole(adapter.config, of_module)]
    if broken or not parts:
        raise ModelError(
            f"adapter: {adapter.uri} lacks a matrix, or has one of a wrong shape, at {', '.join(broken[:3]) or 'all'}. "
            "Copy the folder again, or save it with PEFT again"
        )


def _odd_field(config: Mapping[str, Any]) -> str | None:
    """A field that makes more of an adapter than its matrices; ``None`` where there is none."""
    if str(config.get("init_lora_weights")).startswith(BESIDE_ANOTHER_BASE):
        return "init_lora_weights"
    return next((name for name in NO_MATRIX if config.get(name)), None)


def _has_matrices(config: Mapping[str, Any], parts: Parts) -> bool:
    return _has_product(parts) and parts["lora_A"].shape[0] > 0 and parts.keys() <= {"lora_A", "lora_B", MAGNITUDE}


def _has_values(config: Mapping[str, Any], parts: Parts) -> bool:
    """AdaLoRA's; it takes a layer's last rank too."""
    return _has_product(parts) and VALUES in parts and parts[VALUES].shape == (parts["lora_A"].shape[0], 1)


def _has_product(parts: Parts) -> bool:
    a_RI, b_OR, magnitude_O = parts.get("lora_A"), parts.get("lora_B"), parts.get(MAGNITUDE)
    if a_RI is None or b_OR is None or a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != b_OR.shape[1]:
        return False
    if not a_RI.shape[1] or not b_OR.shape[0]:
        return False
    return magnitude_O is None or magnitude_O.shape == b_OR.shape[:1]


def _has_vectors(config: Mapping[str, Any], parts: Parts) -> bool:
    return parts.keys() == {D, B} and parts[D].shape == (config["r"],) and parts[B].ndim == 1


def _plain(config: Mapping[str, Any], module: str, parts: Parts) -> Delta:
    a_RI = parts["lora_A"].contiguous()
    alpha = of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", a_RI.shape[0]))
    rank = a_RI.shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Delta(module, a_RI, parts["lora_B"].contiguous(), scale, parts.get(MAGNITUDE))


def _folded(config: Mapping[str, Any], module: str, parts: Parts) -> Delta:
    """AdaLoRA's values multiplied into A, without the ranks whose value is zero."""
    e_R1, b_OR = parts[VALUES], parts["lora_B"]
    a_RI, left_R = e_R1 * parts["lora_A"], e_R1[:, 0] != 0
    scale = config["lora_alpha"] / (config["init_r"] + RANK_EPSILON)
    if not left_R.any():
        return Delta(module, a_RI.new_zeros(1, a_RI.shape[1]), b_OR.new_zeros(len(b_OR), 1), scale)
    return Delta(module, a_RI[left_R].contiguous(), b_OR[:, left_R].contiguous(), scale)
