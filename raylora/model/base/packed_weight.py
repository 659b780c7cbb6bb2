"""The weight of a packed layer for code that is not ours and asks the layer for it: unpacked when its values are used.

Some ask for its dtype or shape alone: T5 does before each product of a feed-forward layer's ``wo``, PEFT where it makes
an adapter. Called by `frozen_linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

NO_OTHER = "this weight is unpacked or gathered for reading; the frozen base takes no other"

FACTS = {
    *(getattr(Tensor, name).__get__ for name in ("device", "dtype", "is_cuda", "is_meta", "layout", "ndim", "shape")),
    *(getattr(Tensor, name).__get__ for name in ("grad", "is_leaf", "itemsize", "nbytes", "requires_grad")),
    *(Tensor.dim, Tensor.element_size, Tensor.is_floating_point, Tensor.numel, Tensor.size, Tensor.stride),
}
"""What is answered without values."""


class PackedWeight(Tensor):
    """A weight whose values are made by the first operation that takes them; a Parameter for whoever asks.

    Args:
        shape: Of the weight.
        dtype: Of the unpacked values.
        device: Where they are.
        unpack: Makes them.
    """

    unpacked: Callable[[], Tensor]
    """Unpacks, once."""

    @staticmethod
    def __new__(
        cls, shape: Sequence[int], dtype: torch.dtype, device: torch.device, unpack: Callable[[], Tensor]
    ) -> PackedWeight:
        """Make one without storage, so that no kernel can take it for values."""
        made: PackedWeight = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        made.unpacked = cache(unpack)
        made._is_param = True  # what isinstance(..., nn.Parameter) looks at
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer facts; unpack for all else, before autograd, which keeps the values that were used."""
        if func in FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return _on_values(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch calls it so; Tensor's own is typed as what switches it off
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Unpack also for what does not go through torch's functions."""
        return _on_values(func, args, kwargs)

    @property
    def data(self) -> Tensor:
        """The values."""
        return self.unpacked()

    @data.setter
    def data(self, value: Tensor) -> None:
        """Refuse another one."""
        raise TypeError(NO_OTHER)


def _on_values(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    args, kwargs = tree_map_only(PackedWeight, lambda weight: weight.unpacked(), (tuple(args), dict(kwargs or {})))
    return func(*args, **kwargs)
