"""GaLore: all weights train, and the moments of linear layers are kept at a low rank.

The run's settings and its weights enter; a stepper leaves. The projection and the update are those of galore-torch, the
extra ``galore``; summing, clipping and checkpoints are ours. Called by `steppers`.

Source: GaLore, https://arxiv.org/abs/2403.03507, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from galore_torch import GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector
from torch import Tensor, nn

from raylora.spec.fields.train import TrainFields
from raylora.strategy.clipped_update import clipped_update

MOMENTS, PROJECTION = ("exp_avg", "exp_avg_sq"), "projection"


class GaloreStepper:
    """Steps each weight by itself; gradients lie in one row, so that one call sums them over ranks.

    Args:
        spec: Rank, gap and scale of the projection, and AdamW's settings.
        parameters: Weights by name, all of one dtype and whole on every rank; their gradients become views.
        projected: Names of those whose gradients are projected; of two dimensions.
    """

    def __init__(self, spec: TrainFields, parameters: Mapping[str, nn.Parameter], projected: Collection[str]) -> None:
        self._parameters = dict(parameters)
        self._grad = torch.cat([torch.zeros_like(parameter).view(-1) for parameter in parameters.values()])
        sizes = [parameter.numel() for parameter in parameters.values()]
        parts = self._grad.split(sizes)
        self._gradients = [part.view_as(like) for like, part in zip(parameters.values(), parts, strict=True)]
        for parameter, gradient in zip(parameters.values(), self._gradients, strict=True):
            parameter.grad = gradient
        self._projected, self._settings = set(projected), _settings(spec)
        self._max_grad_norm = spec.max_grad_norm
        groups = [
            {"params": [parameter for name, parameter in parameters.items() if name not in self._projected]},
            {"params": [parameters[name] for name in projected], "proj_type": "std", **self._settings},
        ]
        self._optimizer = GaLoreAdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=(spec.adam_beta1, spec.adam_beta2),
            eps=spec.adam_epsilon,
            weight_decay=spec.weight_decay,
            no_deprecation_warning=True,
        )
        for name in self._projected:
            self._optimizer.state[parameters[name]]["projector"] = _Projector(**self._settings)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        loss.backward()

    @property
    def unsummed(self) -> Tensor:
        """The gradient's row."""
        return self._grad

    def step(self, learning_rate: float, updated: Callable[[], None] | None = None) -> float:
        """Clip by norm, project, update, clear; nothing is updated where the norm is not finite.

        Args:
            learning_rate: Of this step.
            updated: As of `Stepper`.
        """
        norm = float(nn.utils.get_total_norm(self._gradients))
        clipped_update(self._optimizer, [self._grad], norm, self._max_grad_norm, learning_rate, updated)
        self.forget()
        return norm

    def forget(self) -> None:
        """Clear the gradient."""
        self._grad.zero_()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The moments by ``<moment>.<weight>`` at their rank, and what projects; none before the first step."""
        held: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            held = self._optimizer.state[parameter]
            if "step" not in held:
                return
            yield from ((f"{moment}.{name}", held[moment]) for moment in MOMENTS)
            if name in self._projected:
                yield f"{PROJECTION}.{name}", held["projector"].ortho_matrix
        yield "step", torch.tensor(held["step"])

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved moments."""
        for name, parameter in self._parameters.items():
            held: dict[str, Any] = {}
            if state:
                held["step"] = int(state["step"])
                held |= {moment: state[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
            if name in self._projected:
                held["projector"] = _Projector(**self._settings)
                if state:
                    held["projector"].ortho_matrix = state[f"{PROJECTION}.{name}"].to(parameter.device, copy=True)
            self._optimizer.state[parameter] = held


class _Projector(GaLoreProjector):  # type: ignore[misc]  # galore-torch ships no types
    """The library's, but that all ranks have that of rank 0, and nothing holds the rest of a decomposition."""

    def get_orthogonal_matrix(self, weights: Tensor, rank: int, type: str) -> Tensor:
        """The first singular vectors of a gradient.

        Ranks that computed them each for itself could find other ones: signs, and the last bits, differ by machine.
        """
        # A copy: else the whole factor stays, of which it is a part.
        found: Tensor = super().get_orthogonal_matrix(weights, rank, type)
        matrix = found.clone(memory_format=torch.contiguous_format)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(matrix, 0)
        return matrix


def _settings(spec: TrainFields) -> dict[str, Any]:
    return {
        "rank": spec.galore_rank,
        "update_proj_gap": spec.galore_update_proj_gap,
        "scale": spec.galore_scale,
    }
