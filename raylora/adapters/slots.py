"""A stored adapter as a slot of the packed bank takes it: one rank and one scale for all of its layers.

A `StoredAdapter` enters; the slot's settings, its layers and its tensors leave. Called by `opening` and `evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from raylora.adapters.base import BasePlace
from raylora.adapters.delta import Layers, tensors_of
from raylora.adapters.layers import deltas
from raylora.adapters.rerank import evened
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.adapter.peft_format import tensor_name
from raylora.model.adapter.slot import Slot
from raylora.model.targets import linear_layers


@dataclass(frozen=True)
class Seat:
    """An adapter, ready for a slot.

    Args:
        uri: Where it is stored.
        settings: Of the slot.
        targets: Dotted names of its layers.
        tensors: By the names of ``adapter_model.safetensors``, all of the settings' rank.
    """

    uri: str
    settings: Slot
    targets: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def seat_of(adapter: StoredAdapter, place: BasePlace | None = None) -> Seat:
    """Bring an adapter to one rank and one scale.

    A layer of a lower rank than another gets rows and columns of zeros. Where layers have several scales, each layer's
    is multiplied into its B. Dropout is left out: what is seated answers, and does not train.

    Args:
        adapter: As it is stored.
        place: Where its base is, as for `deltas`.

    Raises:
        ModelError: It is none of the kinds that `deltas` reads, was trained on a base that PEFT had changed, or has
            magnitudes where its config has none, or none where it has.
    """
    found = deltas(adapter, place)
    use_dora = bool(adapter.config.get("use_dora"))
    odd = [name for name, delta in found.items() if (delta.magnitude_O is not None) != use_dora]
    if odd:
        raise ModelError(
            f"adapter: {adapter.uri} says use_dora: {str(use_dora).lower()} and has it otherwise at {len(odd)} of "
            f"{len(found)} layers, first {odd[0]}. Allowed: magnitudes at every layer, or at none. Save it again with "
            "PEFT"
        )
    settings, tensors = in_one_slot(found)
    return Seat(adapter.uri, settings, tuple(found), tensors)


def in_one_slot(layers: Layers) -> tuple[Slot, dict[str, Tensor]]:
    """Write layers as one slot takes them.

    Args:
        layers: Of an adapter, all with magnitudes or all without; none of the base alone.

    Returns:
        The slot's settings, and tensors by PEFT's names.
    """
    if not layers:
        return Slot(1, 1.0, dropout=0.0, seed=0), {}
    even = evened(layers)
    use_dora = all(delta.magnitude_O is not None for delta in layers.values())
    return Slot(even.r, even.alpha, dropout=0.0, seed=0, use_dora=use_dora), tensors_of(even.deltas)


def check_seat(seat: Seat, model: PreTrainedModel) -> None:
    """Refuse an adapter whose layers a base does not have.

    Args:
        seat: The adapter.
        model: The base; its parameters may be on the meta device.

    Raises:
        ModelError: A layer is not there, is the output head, or is of another shape.
    """
    layers, head = linear_layers(model), model.get_output_embeddings()
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items() if layer is not head}
    strange = [name for name in seat.targets if shapes.get(name) != _shape(seat, name)]
    if strange:
        num_outputs, num_inputs = _shape(seat, strange[0])
        raise ModelError(
            f"adapter: {seat.uri} does not fit {type(model).__name__}, which has no linear layer for {len(strange)} of "
            f"its {len(seat.targets)}, first {strange[0]} ({num_outputs} x {num_inputs}); the output head takes none. "
            "Name the base that it was trained on with --base"
        )


def _shape(seat: Seat, name: str) -> tuple[int, int]:
    a_RI, b_OR = (seat.tensors[tensor_name(name, matrix)] for matrix in ("lora_A", "lora_B"))
    return b_OR.shape[0], a_RI.shape[1]
