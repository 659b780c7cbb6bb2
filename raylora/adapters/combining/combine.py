"""Several adapters of one base become one, layer by layer; nothing of the base is read.

The layers of each and a recipe enter; one `Delta` of scale 1 a layer leaves. A layer that an adapter lacks is an update
of zero there, which adds nothing by any method. Called by the command `combine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, task_arithmetic, ties
from torch import Tensor

from raylora.adapters.combining.recipe import FACTOR_WISE, Recipe
from raylora.adapters.delta import Delta, Layers
from raylora.adapters.rerank import truncated
from raylora.errors import ModelError
from raylora.model.rows.seed import stable_seed

Parts = Sequence[tuple[Delta, float]]
"""Of one layer: what the adapters that have it do there, and their weights."""

_SPARSE: Mapping[str, Callable[[list[Tensor], Tensor, float], Tensor]] = {
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
}


def combine(adapters: Sequence[Layers], recipe: Recipe) -> dict[str, Delta]:
    """Make one update of each layer that any adapter has.

    Args:
        adapters: Layers of each, as `fit` found them to fit.
        recipe: How; its weights are in the adapters' order.

    Returns:
        By dotted name of the layer, in the order of the names; each of scale 1.

    Raises:
        ModelError: The result is not finite.
    """
    largest = recipe.max_rank or max(delta.r for layers in adapters for delta in layers.values())
    combined = {}
    for module in sorted(set[str]().union(*adapters)):
        pairs = zip(adapters, recipe.weights, strict=True)
        parts = [(layers[module], weight) for layers, weight in pairs if module in layers]
        combined[module] = _combined(module, parts, recipe, largest)
    broken = [module for module, delta in combined.items() if not _is_finite(delta)]
    if broken:
        raise ModelError(
            f"combine: the result is not finite at {len(broken)} layers, first {broken[0]}; nothing was written. Give "
            "smaller --weights"
        )
    return combined


def _combined(module: str, parts: Parts, recipe: Recipe, largest: int) -> Delta:
    is_by_factor = recipe.method in FACTOR_WISE
    a_RI, b_OR = _by_factor(module, parts, recipe) if is_by_factor else _stacked(parts)
    whole = Delta(module, a_RI.contiguous(), b_OR.contiguous(), 1.0)
    return truncated(whole, largest)[0] if recipe.method == "svd" else whole


def _stacked(parts: Parts) -> tuple[Tensor, Tensor]:
    """One pair of factors whose product is the weighted sum of the updates, as PEFT's ``cat``.

    Shapes:
        Returns (R, I) and (O, R), R being the sum of all ranks.
    """
    a_RI = torch.cat([delta.a_RI * (weight * delta.scale) for delta, weight in parts])
    return a_RI, torch.cat([delta.b_OR for delta, _ in parts], dim=1)


def _by_factor(module: str, parts: Parts, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """A of all As and B of all Bs, each multiplied by the root of weight times scale; a sign goes with A.

    What is dropped follows from the seed and the layer's name, whatever other layers there are.

    Source: PEFT's `add_weighted_adapter`; TIES, https://arxiv.org/abs/2306.01708, section 3; DARE,
        https://arxiv.org/abs/2311.03099, section 3.
    """
    factors = [weight * delta.scale for delta, weight in parts]
    roots = torch.tensor([math.sqrt(abs(factor)) for factor in factors])
    signs = torch.tensor([1.0 if factor >= 0 else -1.0 for factor in factors])
    with torch.random.fork_rng([]):
        torch.manual_seed(stable_seed("combine", recipe.seed, module))
        a_RI = _merged([delta.a_RI for delta, _ in parts], roots * signs, recipe)
        b_OR = _merged([delta.b_OR for delta, _ in parts], roots, recipe)
    return a_RI, b_OR


def _merged(tensors: list[Tensor], weights: Tensor, recipe: Recipe) -> Tensor:
    if recipe.method == "linear":
        return task_arithmetic(tensors, weights)
    return _SPARSE[recipe.method](tensors, weights, recipe.kept)


def _is_finite(delta: Delta) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in (delta.a_RI, delta.b_OR))
