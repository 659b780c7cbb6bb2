"""Adapters as one flat row, whole on every rank: one tensor to sum over ranks, one norm, one optimizer update a step.

Parameters that move at another multiple of the learning rate lie side by side in the row, a stretch of it for each.
Used by every strategy that leaves the optimizer alone (ddp, fsdp, zero3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raylora.strategy.clipped_update import RATE, clipped_update
from raylora.strategy.contract import MASTER, MOMENTS, OptimizerFactory, Stepper
from raylora.strategy.saved_moments import OF_BITSANDBYTES, check_moments


class FlatStepper:
    """Steps parameters that it re-homes as views of one row.

    Args:
        adapters: Parameters by name, all of one dtype; their data and gradients become views.
        make: Makes the optimizer of the row.
        max_grad_norm: Largest gradient norm, of all parameters together; 0 for no clipping.
        rates: By name, the multiple of the step's learning rate at which a parameter moves.
    """

    def __init__(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        rates: Mapping[str, float],
    ) -> None:
        by_rate = sorted(adapters, key=rates.__getitem__)  # keeps the order within a rate
        row = torch.cat([adapters[name].detach().reshape(-1) for name in by_rate])
        self._grad = torch.zeros_like(row)
        self._stretches: list[_Stretch] = []
        start = 0
        for rate in sorted(set(rates.values())):
            named = {name: adapters[name] for name in by_rate if rates[name] == rate}
            end = start + sum(parameter.numel() for parameter in named.values())
            self._stretches.append(_Stretch(rate, row[start:end], self._grad[start:end], named))
            start = end
        self._gradients = [parameter.grad for parameter in adapters.values() if parameter.grad is not None]
        self._optimizer = make([{"params": [each.row], RATE: each.rate} for each in self._stretches])
        self._max_grad_norm = max_grad_norm

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        loss.backward()

    @property
    def unsummed(self) -> Tensor:
        """The gradient's row."""
        return self._grad

    def step(self, learning_rate: float, updated: Callable[[], None] | None = None) -> float:
        """Clip by norm, update, clear; return the norm before clipping.

        Nothing is updated where the norm is not finite.

        Args:
            learning_rate: Of this step.
            updated: As of `Stepper`.
        """
        # By parameter: one float32 sum of squares over millions of values is off by a 1e-4th part.
        norm = float(nn.utils.get_total_norm(self._gradients))
        clipped_update(self._optimizer, [self._grad], norm, self._max_grad_norm, learning_rate, updated)
        self.forget()
        return norm

    def forget(self) -> None:
        """Clear the gradient."""
        self._grad.zero_()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The moments by ``<moment>.<parameter>``, views of them; what belongs to no parameter by its own name.

        The latter are ``step`` (the optimizer's count of steps) and the scales and codes of 8-bit moments; those of the
        second stretch and further ones carry its number, as in ``step@1``.
        """
        for number, stretch in enumerate(self._stretches):
            for moment, value in self._optimizer.state.get(stretch.row, {}).items():
                whole = torch.as_tensor(value)
                if whole.shape == stretch.row.shape:
                    yield from ((f"{moment}.{name}", part) for name, part in stretch.parts(whole).items())
                else:
                    yield f"{moment}@{number}" if number else moment, whole

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved moments.

        Raises:
            StoreError: They are of another kind of optimizer.
        """
        is_bitsandbytes = hasattr(self._optimizer, "get_state_buffer")
        check_moments(state, OF_BITSANDBYTES if is_bitsandbytes else MOMENTS)
        self._optimizer.state.clear()
        # bitsandbytes makes its own, which pages where it is to: one of the device would not, and may not fit.
        zeros_like = getattr(self._optimizer, "get_state_buffer", torch.zeros_like)
        for number, stretch in enumerate(self._stretches):
            moments = stretch.moments(state, number, zeros_like)
            if moments:
                self._optimizer.state[stretch.row] = moments


class _Stretch:
    """Parameters of one rate as a part of the row.

    Args:
        rate: Multiple of the learning rate.
        row: Their part of the row.
        grad: Their part of its gradient.
        named: The parameters, in the order of the row; they become views.
    """

    def __init__(self, rate: float, row: Tensor, grad: Tensor, named: Mapping[str, nn.Parameter]) -> None:
        self.rate, self.row = rate, nn.Parameter(row)
        self.row.grad = grad
        self._shapes = {name: parameter.shape for name, parameter in named.items()}
        gradients = self.parts(grad)
        for name, part in self.parts(self.row.data).items():
            named[name].data, named[name].grad = part, gradients[name]

    def parts(self, row: Tensor) -> dict[str, Tensor]:
        """Views of a row of this stretch's length by parameter."""
        pieces = row.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), pieces, strict=True)}

    def moments(self, state: Mapping[str, Tensor], number: int, zeros_like: Callable[..., Tensor]) -> dict[str, Any]:
        """What of a saved state is this stretch's, as the optimizer keeps it.

        Args:
            state: By ``<moment>.<parameter>``.
            number: This stretch's.
            zeros_like: Of a row and a dtype: zeros where the optimizer keeps a moment of that row.
        """
        moments, parts = dict[str, Any](), dict[str, dict[str, Tensor]]()
        for key, value in state.items():
            moment, _, name = key.partition(".")
            if moment == MASTER:
                continue  # the row is what is stepped
            if name in self._shapes:
                if moment not in parts:  # once: each makes a view of every parameter
                    # Torch's moments are of the row's dtype, an engine's in float32; bitsandbytes' are its own affair.
                    dtype = self.row.dtype if moment in MOMENTS else value.dtype
                    moments[moment] = zeros_like(self.row, dtype=dtype)
                    parts[moment] = self.parts(moments[moment])
                parts[moment][name].copy_(value)
            elif not name and int((moment.partition("@")[2]) or 0) == number:
                # bitsandbytes counts its steps as a plain number
                is_count = value.ndim == 0 and not value.is_floating_point()
                moments[moment.partition("@")[0]] = int(value) if is_count else value.to(self.row.device, copy=True)
        return moments


class StepsFlat:
    """A strategy that leaves the optimizer alone: it never sees the adapters."""

    def stepper(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        rates: Mapping[str, float],
    ) -> Stepper:
        """One row and one optimizer."""
        return FlatStepper(adapters, make, max_grad_norm, rates)
