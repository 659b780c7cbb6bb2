"""What one slot does on one layer: plain LoRA, and the steps of a pass in which other kinds differ from it.

The layer's autograd node calls `meet` while the frozen weight is whole, then `add`; on the way back `inward` before the
product with the frozen weight, `outward` while that weight is whole, then `backward`. rsLoRA and LoRA+ are LoRA here:
their scale is the slot's, their learning rates are the optimizer's. `residual` and `dora` hold the other kinds, `stack`
does several plain ones at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from raylora.model.adapter.slot import Slot
from raylora.model.base.product import add_product, product

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Tokens:
    """Neighbouring tokens in a forward pass, and which of their inputs dropout keeps."""

    where: slice
    keep: float
    kept_NI: Tensor | None

    def of(self, x_NI: Tensor) -> Tensor:
        """Their inputs after dropout."""
        return self.thin(x_NI[self.where])

    def thin(self, x_NI: Tensor) -> Tensor:
        """Dropout of values that belong to these tokens."""
        return x_NI if self.kept_NI is None else (x_NI * self.kept_NI).div_(self.keep)


class Addition(ABC):
    """y + scale (z A^T) B^T for some tokens; z is x after dropout.

    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3.
    """

    scale: float

    @property
    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What trains."""

    @abstractmethod
    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B in the dtype of a product."""

    @abstractmethod
    def apart(self, rows_NX: Tensor) -> Tensor:
        """Rows of the tokens as the matrices take them, a view."""

    @abstractmethod
    def gradients(self, grad_a: Tensor, grad_b: Tensor) -> Tensors:
        """Sort gradients of the matrices by `parameters`.

        Args:
            grad_a: Of A.
            grad_b: Of B.
        """

    def meet(self, tokens: Tokens, x_NI: Tensor, weight_OI: Tensor) -> Tensors:
        """Compute what takes the whole weight.

        Args:
            tokens: Whose.
            x_NI: The layer's inputs, of all slots.
            weight_OI: The frozen weight.

        Returns:
            What `add` is to have of it.
        """
        return ()

    def add(self, tokens: Tokens, x_NI: Tensor, y_NO: Tensor, met: Tensors) -> Tensors:
        """Add to the layer's output for the tokens, in place.

        Args:
            tokens: Whose.
            x_NI: The layer's inputs, of all slots.
            y_NO: The layer's output for the tokens.
            met: From `meet`.

        Returns:
            What the backward pass is to have.
        """
        a, b = self.matrices(x_NI.dtype)
        h = product(self.apart(tokens.of(x_NI)), a).mul_(self.scale)
        add_product(self.apart(y_NO), h, b)
        return (h,)

    def inward(self, tokens: Tokens, grad_y_NO: Tensor, grad_base_NO: Tensor, kept: Tensors) -> Tensor:
        """What flows back through the frozen weight.

        Args:
            tokens: Whose.
            grad_y_NO: Gradient of the layer's output, of all slots; not to be changed.
            grad_base_NO: What the slots before made of it.
            kept: From `add`.
        """
        return grad_base_NO

    def outward(  # noqa: B027 (most kinds have nothing to add)
        self, tokens: Tokens, grad_NO: Tensor, grad_x_NI: Tensor, weight_OI: Tensor, kept: Tensors
    ) -> None:
        """Add to the gradient of the tokens' inputs what takes the whole weight, in place.

        Args:
            tokens: Whose.
            grad_NO: Gradient of the layer's output for them.
            grad_x_NI: Gradient of their inputs.
            weight_OI: The frozen weight.
            kept: From `add`.
        """

    def backward(
        self, tokens: Tokens, x_NI: Tensor, grad_NO: Tensor, grad_x_NI: Tensor | None, kept: Tensors
    ) -> Tensors:
        """Gradients of what trains; that of the tokens' inputs is added in place.

        Args:
            tokens: Whose.
            x_NI: The layer's inputs, of all slots.
            grad_NO: Gradient of the layer's output for the tokens.
            grad_x_NI: Gradient of their inputs so far; ``None`` where they take none.
            kept: From `add`.

        Returns:
            In the order of `parameters`.
        """
        (h,) = kept
        a, b = self.matrices(grad_NO.dtype)
        grad_y = self.apart(grad_NO)
        grad_h = product(grad_y, b.mT).mul_(self.scale)
        if grad_x_NI is not None:
            if tokens.kept_NI is None:
                add_product(self.apart(grad_x_NI), grad_h, a.mT)
            else:
                grad_x_NI += tokens.thin(product(grad_h, a.mT).view_as(grad_x_NI))
        grad_a = product(grad_h.mT, self.apart(tokens.of(x_NI)).mT)
        return self.gradients(grad_a, product(grad_y.mT, h.mT))


class Update(Addition):
    """What one slot adds on one layer, and holds for it.

    Args:
        settings: Of the adapter.
        a_RI: Start of A.
        b_OR: Start of B.

    Shapes:
        a_RI: (R, I). b_OR: (O, R). float32.
    """

    def __init__(self, settings: Slot, a_RI: Tensor, b_OR: Tensor) -> None:
        self.settings, self.scale = settings, settings.scale
        self.a_RI, self.b_OR = nn.Parameter(a_RI), nn.Parameter(b_OR)
        self.trained: dict[str, nn.Parameter] = {"lora_A": self.a_RI, "lora_B": self.b_OR}
        """What trains, by PEFT's names."""

    @property
    @override
    def parameters(self) -> list[nn.Parameter]:
        return list(self.trained.values())

    @override
    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.a_RI.to(dtype), self.b_OR.to(dtype)

    @override
    def apart(self, rows_NX: Tensor) -> Tensor:
        return rows_NX

    @override
    def gradients(self, grad_a: Tensor, grad_b: Tensor) -> Tensors:
        return grad_a.to(self.a_RI.dtype), grad_b.to(self.b_OR.dtype)

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
