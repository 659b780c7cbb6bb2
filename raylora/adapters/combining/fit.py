"""Whether adapters can be combined: of one base, plain updates, and of ranks that the method can add.

Stored adapters enter; the layers of each leave, or everything that is wrong. Called by the command `combine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raylora.adapters.base import BasePlace
from raylora.adapters.combining.recipe import FACTOR_WISE
from raylora.adapters.delta import Layers
from raylora.adapters.layers import deltas
from raylora.adapters.one_base import check_same_base
from raylora.adapters.stored import StoredAdapter
from raylora.errors import InputError, ModelError, together
from raylora.log import get_logger

log = get_logger(__name__)


def fitting_layers(adapters: Sequence[StoredAdapter], method: str, place: BasePlace | None = None) -> list[Layers]:
    """Sort each adapter's tensors by layer, and find out that they can be combined.

    Args:
        adapters: Two or more.
        method: By which.
        place: Where their base is, as for `deltas`.

    Raises:
        ModelError: All that is wrong: an adapter is no plain low-rank one, they were trained on several bases, or they
            have ranks that the method cannot add.
    """
    found: list[Layers] = []
    errors: list[InputError] = []
    for adapter in adapters:
        try:
            found.append(deltas(adapter, place))
        except ModelError as error:
            found.append({})
            errors.append(error)
    errors += [ModelError(problem) for problem in _not_sums(adapters, found)]
    try:
        check_same_base({adapter.uri: adapter for adapter in adapters})
    except ModelError as error:
        errors.append(error)
    errors += [ModelError(problem) for problem in _misfits(adapters, found, method)]
    if errors:
        raise together(errors)
    if unknown := [adapter.uri for adapter in adapters if adapter.base_digest is None]:
        log.warning("combine: not known is which base was trained on by %s; that was not checked", ", ".join(unknown))
    return found


def _not_sums(adapters: Sequence[StoredAdapter], found: Sequence[Layers]) -> Iterator[str]:
    """Adapters whose updates cannot be weighted and added over the base as it is."""
    for adapter, layers in zip(adapters, found, strict=True):
        if adapter.is_of_quantized_base:
            yield (
                f"combine: {adapter.uri} started as LoftQ, so each has what quantization took from the base, and a sum "
                "has it as often as the weights say. Allowed: other starts. Train it without init_lora_weights: loftq, "
                "or merge it instead"
            )
        if any(delta.magnitude_O is not None for delta in layers.values()):
            yield (
                f"combine: {adapter.uri} is DoRA, whose magnitudes scale base and update together: it is no sum of the "
                "two. Allowed: LoRA, rsLoRA, AdaLoRA, VeRA. Train it without use_dora, or merge it instead"
            )


def _misfits(adapters: Sequence[StoredAdapter], found: Sequence[Layers], method: str) -> Iterator[str]:
    """Layers whose updates cannot be added: of other sizes, or of other ranks where factors are added."""
    shared = sorted(set[str]().union(*found))
    at = {module: [layers[module] for layers in found if module in layers] for module in shared}
    sizes = [module for module in shared if len({(len(each.b_OR), each.a_RI.shape[1]) for each in at[module]}) > 1]
    ranks = [module for module in shared if len({each.r for each in at[module]}) > 1]
    if sizes:
        yield (
            f"combine: {len(sizes)} layers have another size in one adapter than in another, first {sizes[0]}. "
            "Allowed: adapters of one base. Combine those that are"
        )
    if ranks and method in FACTOR_WISE:
        pairs = zip(adapters, found, strict=True)
        got = ", ".join(f"{layers[ranks[0]].r} in {adapter.uri}" for adapter, layers in pairs if ranks[0] in layers)
        yield (
            f"--method {method}: it adds factors of one rank, and {len(ranks)} layers have several, first {ranks[0]}: "
            f"{got}. Use --method cat, whose rank is their sum, or svd"
        )
