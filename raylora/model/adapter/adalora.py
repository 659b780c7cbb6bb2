"""AdaLoRA: a value for each rank trains between the two matrices, and ranks whose value is zero are none.

y = x W^T + scale * B (E * (A z)). To the products it is LoRA with the matrices diag(E) A and B.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import tensor_name
from raylora.model.adapter.slot import Slot
from raylora.model.adapter.update import Tensors, Update

VALUES = "lora_E"


class AdaLoraUpdate(Update):
    """What one slot adds on one layer.

    Args:
        settings: Of the adapter.
        a_RI: Start of A.
        b_OR: Start of B; the values between them start at zero.

    Source: AdaLoRA, https://arxiv.org/abs/2303.10512, equation 3.
    """

    def __init__(self, settings: Slot, a_RI: Tensor, b_OR: Tensor) -> None:
        super().__init__(settings, a_RI, b_OR)
        self._e_R1 = self.trained[VALUES] = nn.Parameter(torch.zeros(settings.r, 1, device=a_RI.device))

    @override
    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return (self._e_R1 * self.a_RI).to(dtype), self.b_OR.to(dtype)

    @override
    def gradients(self, grad_a: Tensor, grad_b: Tensor) -> Tensors:
        grad_ea = grad_a.float()
        return grad_ea * self._e_R1, grad_b.float(), (grad_ea * self.a_RI).sum(1, keepdim=True)


def pruned(adapter: Adapter) -> Adapter:
    """Leave out the ranks whose value is zero, as PEFT saves AdaLoRA; what the adapter computes stays as it is.

    Args:
        adapter: From the packed bank, with all ranks that it started with.
    """
    tensors, pattern = dict(adapter.tensors), dict[str, list[bool]]()
    for module in adapter.layers:
        a, b, e = (tensor_name(module, matrix, bare=True) for matrix in ("lora_A", "lora_B", VALUES))
        kept_R = tensors[e][:, 0] != 0
        pattern[f"{module}.{VALUES}"] = kept_R.tolist()
        for name, part in ((a, tensors[a][kept_R]), (b, tensors[b][:, kept_R]), (e, tensors[e][kept_R])):
            tensors[name] = part.contiguous()
    return replace(adapter, tensors=tensors, config=adapter.config | {"rank_pattern": pattern})
