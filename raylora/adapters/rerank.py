"""Updates of another rank: the nearest ones of a smaller rank, and all of them brought to one rank and one scale.

`Delta`s enter and leave. Called by exporting, for servers with a largest rank, or with one rank for a whole adapter,
and by combining.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from raylora.adapters.delta import Delta


@dataclass(frozen=True)
class Even:
    """Updates that have one rank and one scale, so that two numbers of a config describe them all.

    Args:
        deltas: By dotted name of the layer.
        r: Rank of each.
        alpha: r times the scale of each.
    """

    deltas: Mapping[str, Delta]
    r: int
    alpha: float


def truncated(delta: Delta, r: int) -> tuple[Delta, float]:
    """The nearest update of a smaller rank, found without forming the (O, I) product.

    B = Q_B R_B and A^T = Q_A R_A, so B A = Q_B (R_B R_A^T) Q_A^T, and a small matrix has all the singular values.

    Args:
        delta: Plain LoRA; the scale stays as it is.
        r: Largest rank, at least 1. An update of no larger rank is handed back as it is.

    Returns:
        The update, and ||D - D_r|| / ||D|| in the Frobenius norm, 0 to 1.

    Source: Eckart and Young, https://doi.org/10.1007/BF02288367.
    """
    if delta.r <= r:
        return delta, 0.0
    # In float64, as starts are: what is small is small beside the largest singular value.
    left, b_part = torch.linalg.qr(delta.b_OR.double())
    right, a_part = torch.linalg.qr(delta.a_RI.double().T)
    u, sizes, vh = torch.linalg.svd(b_part @ a_part.T, full_matrices=False)
    whole, lost = (float(torch.linalg.vector_norm(some)) for some in (sizes, sizes[r:]))
    root = sizes[:r].sqrt()
    b_OR = (left @ (u[:, :r] * root)).float().contiguous()
    a_RI = ((root[:, None] * vh[:r]) @ right.T).float().contiguous()
    return replace(delta, a_RI=a_RI, b_OR=b_OR), lost / whole if whole else 0.0


def reranked(deltas: Iterable[Delta], r: int) -> tuple[dict[str, Delta], dict[str, float]]:
    """Truncate every update.

    Args:
        deltas: Of an adapter's layers.
        r: Largest rank, at least 1.

    Returns:
        Updates and relative errors, both by dotted name of the layer.
    """
    found = {delta.module: truncated(delta, r) for delta in deltas}
    updates = {module: delta for module, (delta, _) in found.items()}
    return updates, {module: error for module, (_, error) in found.items()}


def evened(deltas: Mapping[str, Delta]) -> Even:
    """Bring updates to one rank, by rows and columns of zeros, and to one scale, by B.

    Args:
        deltas: By dotted name of the layer, at least one. The products stay what they are.
    """
    r = max(delta.r for delta in deltas.values())
    scales = {delta.scale for delta in deltas.values()}
    scale = scales.pop() if len(scales) == 1 else 1.0
    even = {module: _padded(_scaled(delta, scale), r) for module, delta in deltas.items()}
    # Twelve digits: 8 / 49 * 49 is not quite 8, and people read the number.
    return Even(even, r, float(f"{scale * r:.12g}"))


def _scaled(delta: Delta, scale: float) -> Delta:
    if delta.scale == scale:
        return delta
    return replace(delta, b_OR=delta.b_OR * (delta.scale / scale), scale=scale)


def _padded(delta: Delta, r: int) -> Delta:
    more = r - delta.r
    if more == 0:
        return delta
    return replace(delta, a_RI=pad(delta.a_RI, (0, 0, 0, more)), b_OR=pad(delta.b_OR, (0, more)))
