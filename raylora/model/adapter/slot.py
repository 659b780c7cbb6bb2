"""The settings of one adapter, as banks and updates take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylora.spec.fields.run import RunFields

RANK_EPSILON = 1e-5
"""What PEFT adds to the rank that it divides AdaLoRA's update by."""


@dataclass(frozen=True)
class VeraStart:
    """How VeRA starts.

    Args:
        projection_prng_key: Seed of its random matrices.
        d_initial: Value of the vector that scales the rank; the one that scales outputs starts at zero.
    """

    projection_prng_key: int
    d_initial: float


@dataclass(frozen=True)
class Slot:
    """One adapter's settings.

    Args:
        r: Rank, at least 1.
        alpha: Scale of the update is ``alpha / r``.
        dropout: Probability of dropping an input, 0 to below 1.
        seed: Seed of the start and of dropout.
        use_rslora: Scale by ``alpha / sqrt(r)`` instead.
        use_dora: Train a magnitude for each row of the weight beside its direction.
        init_lora_weights: How the matrices start: ``True``, ``eva``, ``gaussian``, ``loftq``, ``olora``, ``pissa`` or
            ``pissa_niter_N``.
        vera: Of VeRA, how its random matrices and its vectors start; ``None`` for LoRA.
        use_adalora: Train a value for each rank between the two matrices, so that ranks can be taken away.
        peft: Of an adapter of PEFT's own, the fields of its config; the others but the seed say nothing of it.
    """

    r: int
    alpha: float
    dropout: float
    seed: int
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    vera: VeraStart | None = None
    use_adalora: bool = False
    peft: Mapping[str, Any] | None = None

    @property
    def scale(self) -> float:
        """What the update is multiplied by; VeRA's vectors do that.

        Source: LoRA, https://arxiv.org/abs/2106.09685, section 4.1; rsLoRA, https://arxiv.org/abs/2312.03732, theorem
            3.2.
        """
        if self.vera is not None:
            return 1.0
        if self.use_adalora:
            return self.alpha / (self.r + RANK_EPSILON)
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def starts_from_base(self) -> bool:
        """Whether the start is a part of the base's weight, which has to be taken off it again."""
        return str(self.init_lora_weights).startswith(("olora", "pissa"))


def slot_of(spec: RunFields) -> Slot:
    """The settings of a run's adapter."""
    return Slot(
        spec.lora_r,
        spec.lora_alpha,
        spec.lora_dropout,
        spec.seed,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        init_lora_weights=spec.init_lora_weights,
        vera=VeraStart(spec.projection_prng_key, spec.d_initial) if spec.adapter == "vera" else None,
        use_adalora=spec.adapter == "adalora",
        peft=spec.peft,
    )
