"""VeRA as matrices: its vectors multiplied into the random ones that all layers of an adapter share.

An adapter, its tensors by layer and the place of its base enter; one `Delta` a layer leaves. Only the base's config is
read: the vectors do not say how many inputs a layer has. Called by `layers`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raylora.adapters.base import BasePlace, config_of_base
from raylora.adapters.delta import Delta
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.model.adapter.vera import B, D, Projection, random_projection
from raylora.model.base.meta import meta_model
from raylora.model.targets import linear_layers

SHARED = ("base_model.vera_A", "base_model.vera_B")
"""Names of the random matrices, where they were saved."""


def projected(
    adapter: StoredAdapter, parts: Mapping[str, Mapping[str, Tensor]], place: BasePlace | None
) -> dict[str, Delta]:
    """Make VeRA's updates LoRA's: A is diag(d) times its random A, B is diag(b) times its random B.

    Args:
        adapter: Its config counts, and the random matrices where they were saved.
        parts: By dotted name of the layer, d and b by their names; at least one.
        place: Where its base is; where the adapter's config says, if ``None``.

    Returns:
        By dotted name of the layer, in the order of the names.

    Raises:
        ModelError: The base is not there, or has other layers; or the random matrices are not, or are too small.
        StoreError: Storage cannot be read.

    Source: VeRA, https://arxiv.org/abs/2310.11454, equation 2.
    """
    base = linear_layers(meta_model(config_of_base(adapter, place), torch.float32))
    strange = [name for name in parts if name not in base or base[name].out_features != len(parts[name][B])]
    if strange:
        raise ModelError(
            f"adapter: {adapter.uri} does not fit its base, which has no linear layer for {len(strange)} of its "
            f"{len(parts)}, first {strange[0]} ({len(parts[strange[0]][B])} outputs). Name the base that it was "
            "trained on with --base"
        )
    sides = {name: (base[name].out_features, base[name].in_features) for name in sorted(parts)}
    shared = _shared(adapter, *(max(side) for side in zip(*sides.values(), strict=True)))
    found = {}
    for name, (num_outputs, num_inputs) in sides.items():
        a_RI = parts[name][D][:, None] * shared.a_RI[:, :num_inputs]
        found[name] = Delta(name, a_RI, parts[name][B][:, None] * shared.b_OR[:num_outputs], 1.0)
    return found


def _shared(adapter: StoredAdapter, num_outputs: int, num_inputs: int) -> Projection:
    """The random matrices: saved ones, or those of the key, as PEFT goes by the config."""
    config, r = adapter.config, adapter.config["r"]
    if not config.get("save_projection", True):
        return random_projection(config.get("projection_prng_key", 0), r, num_outputs, num_inputs, torch.device("cpu"))
    a_RI, b_OR = (adapter.tensors.get(name) for name in SHARED)
    if a_RI is None or b_OR is None or not _covers(a_RI, b_OR, (r, num_outputs, num_inputs)):
        raise ModelError(
            f"adapter: {adapter.uri} says save_projection: true, and its random matrices "
            f"{' and '.join(SHARED)} are not there, or smaller than its layers. Copy the folder again, or save it "
            "with PEFT again"
        )
    return Projection(a_RI.float(), b_OR.float())


def _covers(a_RI: Tensor, b_OR: Tensor, sides: tuple[int, int, int]) -> bool:
    """Whether random matrices are as large as the largest layer; sides are (R, O, I)."""
    r, num_outputs, num_inputs = sides
    if a_RI.ndim != 2 or b_OR.ndim != 2:
        return False
    return len(a_RI) == b_OR.shape[1] == r and len(b_OR) >= num_outputs and a_RI.shape[1] >= num_inputs
