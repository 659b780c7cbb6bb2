"""What one slot does on one layer: plain LoRA, and the steps of a pass in which other kinds differ from it.

The layer's autograd node calls `meet` while the frozen weight is whole, then `add`; on the way back `inward` before the
product with the frozen weight, `outward` while that weight is whole, then `backward`. rsLoRA and LoRA+ are LoRA here:
their scale is the slot's, their learning rates are the optimizer's. `residual` and `dora` hold the other kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raylora.model.product import add_product, product
from raylora.model.slot import Slot

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one slot in a forward pass, and which of their inputs dropout keeps."""

    where: slice
    keep: float
    kept_NI: Tensor | None

    def of(self, x_NI: Tensor) -> Tensor:
        """The slot's inputs after dropout."""
        return self.thin(x_NI[self.where])

    def thin(self, x_NI: Tensor) -> Tensor:
        """Dropout of values that belong to the slot's tokens."""
        return x_NI if self.kept_NI is None else (x_NI * self.kept_NI).div_(self.keep)


class Update:
    """y + scale (z A^T) B^T for a slot's tokens; z is x after dropout.

    Args:
        settings: Of the adapter.
        a_RI: Start of A.
        b_OR: Start of B.

    Shapes:
        a_RI: (R, I). b_OR: (O, R). float32.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3.
    """

    def __init__(self, settings: Slot, a_RI: Tensor, b_OR: Tensor) -> None:
        self.settings, self.scale = settings, settings.scale
        self.a_RI, self.b_OR = nn.Parameter(a_RI), nn.Parameter(b_OR)
        self.trained: dict[str, nn.Parameter] = {"lora_A": self.a_RI, "lora_B": self.b_OR}
        """What trains, by PEFT's names, in the order of the gradients of `backward`."""

    @property
    def frozen(self) -> Tensors:
        """What it holds beside what trains."""
        return ()

    def export(self) -> dict[str, Tensor]:
        """What PEFT's format keeps of it, by PEFT's names."""
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`export` gave."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])

    def meet(self, tokens: Tokens, x_NI: Tensor, weight_OI: Tensor) -> Tensors:
        """Compute what takes the whole weight.

        Args:
            tokens: The slot's.
            x_NI: The layer's inputs, of all slots.
            weight_OI: The frozen weight.

        Returns:
            What `add` is to have of it.
        """
        return ()

    def add(self, tokens: Tokens, x_NI: Tensor, y_NO: Tensor, met: Tensors) -> Tensors:
        """Add to the layer's output for the slot's tokens, in place.

        Args:
            tokens: The slot's.
            x_NI: The layer's inputs, of all slots.
            y_NO: The layer's output for the slot's tokens.
            met: From `meet`.

        Returns:
            What the backward pass is to have.
        """
        h_NR = product(tokens.of(x_NI), self.a_RI.to(x_NI.dtype)).mul_(self.scale)
        add_product(y_NO, h_NR, self.b_OR.to(x_NI.dtype))
        return (h_NR,)

    def inward(self, tokens: Tokens, grad_y_NO: Tensor, grad_base_NO: Tensor, kept: Tensors) -> Tensor:
        """What flows back through the frozen weight.

        Args:
            tokens: The slot's.
            grad_y_NO: Gradient of the layer's output, of all slots; not to be changed.
            grad_base_NO: What the slots before this one made of it.
            kept: From `add`.
        """
        return grad_base_NO

    def outward(self, tokens: Tokens, grad_NO: Tensor, grad_x_NI: Tensor, weight_OI: Tensor, kept: Tensors) -> None:
        """Add to the gradient of the slot's inputs what takes the whole weight, in place.

        Args:
            tokens: The slot's.
            grad_NO: Gradient of the layer's output for them.
            grad_x_NI: Gradient of their inputs.
            weight_OI: The frozen weight.
            kept: From `add`.
        """

    def backward(
        self, tokens: Tokens, x_NI: Tensor, grad_NO: Tensor, grad_x_NI: Tensor | None, kept: Tensors
    ) -> Tensors:
        """Gradients of what trains; that of the slot's inputs is added in place.

        Args:
            tokens: The slot's.
            x_NI: The layer's inputs, of all slots.
            grad_NO: Gradient of the layer's output for the slot's tokens.
            grad_x_NI: Gradient of their inputs so far; ``None`` where they take none.
            kept: From `add`.

        Returns:
            In the order of `trained`.
        """
        (h_NR,) = kept
        dtype = grad_NO.dtype
        grad_h_NR = product(grad_NO, self.b_OR.to(dtype).t()).mul_(self.scale)
        if grad_x_NI is not None:
            if tokens.kept_NI is None:
                add_product(grad_x_NI, grad_h_NR, self.a_RI.to(dtype).t())
            else:
                grad_x_NI += tokens.thin(product(grad_h_NR, self.a_RI.to(dtype).t()))
        grad_a_RI = product(grad_h_NR.t(), tokens.of(x_NI).t()).to(self.a_RI.dtype)
        return grad_a_RI, product(grad_NO.t(), h_NR.t()).to(self.b_OR.dtype)
