"""What an adapter does to one layer, as matrices: W + scale B A, and DoRA's magnitudes over it.

A weight enters and leaves as what base and adapter compute together. Made by `layers` out of a stored adapter, by
`rerank` and by `combining`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raylora.model.adapter.dora import TINY
from raylora.model.adapter.peft_format import MAGNITUDE, tensor_name


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

    @property
    def tensor(self) -> str:
        """Name of the layer's weight."""
        return f"{self.module}.weight"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer's weight, (O, I)."""
        return self.b_OR.shape[0], self.a_RI.shape[1]

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
