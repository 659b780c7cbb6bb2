"""AdamW as the spec asks for it, torch's or bitsandbytes'; what each keeps and takes. GaLore's is made by `galore`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from raylora.log import get_logger
from raylora.model.bank.heads import SAVED
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.train import TrainFields
from raylora.strategy.contract import ParameterGroup

log = get_logger(__name__)


class AdamWFactory:
    """Makes the optimizer of some parameters; strategies decide of which.

    Args:
        spec: Kind of optimizer, betas, epsilon and decay. The learning rate starts at 0 and is set at each step.
        device: Where the parameters live; bitsandbytes pages on CUDA only.

    Source: AdamW, https://arxiv.org/abs/1711.05101; 8-bit states, https://arxiv.org/abs/2110.02861; paged states,
        https://arxiv.org/abs/2305.14314, section 3.
    """

    def __init__(self, spec: TrainFields, device: torch.device) -> None:
        self._spec, self._device = spec, device
        if _pages(spec) and device.type != "cuda":
            log.warning(
                "optimizer: %s pages its state on a CUDA device and this is a %s; torch's AdamW runs instead",
                spec.optimizer,
                device.type,
            )

    def __call__(self, parameters: list[ParameterGroup]) -> torch.optim.Optimizer:
        """Make the optimizer."""
        spec = self._spec
        betas = (spec.adam_beta1, spec.adam_beta2)
        if not _is_bitsandbytes(spec, self._device.type):
            return torch.optim.AdamW(
                parameters, lr=0.0, betas=betas, eps=spec.adam_epsilon, weight_decay=spec.weight_decay, fused=True
            )
        from bitsandbytes.optim.adamw import AdamW  # starts CUDA where there is one, so only where it is asked for

        optimizer: torch.optim.Optimizer = AdamW(
            parameters,
            lr=0.0,
            betas=betas,
            eps=spec.adam_epsilon,
            weight_decay=spec.weight_decay,
            optim_bits=32 if spec.optimizer == "paged_adamw_32bit" else 8,
            is_paged=_pages(spec),
        )
        return optimizer


def _pages(spec: TrainFields) -> bool:
    return spec.optimizer.startswith("paged")


def _is_bitsandbytes(spec: TrainFields, device_type: str) -> bool:
    """On CUDA all that it has; on a CPU what does not page."""
    if spec.optimizer in ("adamw_torch", "galore_adamw"):
        return False
    return device_type == "cuda" or not _pages(spec)


def rates_of(spec: RunFields, names: Iterable[str]) -> dict[str, float]:
    """The multiple of the learning rate at which each parameter of an adapter moves.

    As in PEFT, all of an adapter that is not A moves with B: DoRA's magnitudes too. A head moves with A.

    Args:
        spec: `loraplus_lr_ratio` counts.
        names: Of the parameters, by either bank.

    Source: LoRA+, https://arxiv.org/abs/2402.12354.
    """
    return {name: 1.0 if "lora_A" in name or name.startswith(SAVED) else spec.loraplus_lr_ratio for name in names}


def state_bytes(spec: TrainFields, num_values: int, device_type: str, itemsize: int = 4) -> int:
    """Bytes of the state that the optimizer of one parameter keeps after its first step.

    Args:
        spec: Kind of optimizer.
        num_values: Values of the parameter.
        device_type: ``cuda`` or ``cpu``.
        itemsize: Bytes of one of its values; torch's moments have as many, bitsandbytes' go their own way.
    """
    if not _is_bitsandbytes(spec, device_type):
        return 2 * itemsize * num_values
    if spec.optimizer == "paged_adamw_32bit" or num_values < 4096:
        return 2 * 4 * num_values
    # bitsandbytes: two codes of 256 values, and a scale for every 256 values of both moments.
    return 2 * num_values + 2 * 4 * math.ceil(num_values / 256) + 2 * 4 * 256


def update_bytes(spec: TrainFields, num_values: int, device_type: str, itemsize: int = 4) -> int:
    """Bytes that an update of one parameter takes while it runs.

    Torch's AdamW and bitsandbytes' on CUDA work in place. On a CPU bitsandbytes unpacks both 8-bit moments as a whole,
    copies the gradient and makes two tensors of what the values move by, all in float32; values of 16 bits too.

    Args:
        spec: Kind of optimizer.
        num_values: Values of the parameter.
        device_type: ``cuda`` or ``cpu``.
        itemsize: Bytes of one of its values.
    """
    if device_type == "cuda" or not _is_bitsandbytes(spec, device_type):
        return 0
    return 4 * (5 if itemsize == 4 else 6) * num_values


def projected_bytes(spec: TrainFields, shape: tuple[int, int], itemsize: int) -> int:
    """Bytes that GaLore keeps of one weight: both moments at its rank, and what projects the shorter side.

    Args:
        spec: `galore_rank` counts.
        shape: Outputs and inputs.
        itemsize: Bytes of one value.
    """
    shorter, longer = sorted(shape)
    return itemsize * spec.galore_rank * (2 * longer + shorter)
