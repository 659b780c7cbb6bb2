"""How the two matrices of an adapter start: the name of a start and a layer's weight enter, A and B leave.

What starts from the layer's inputs (`eva`) is random here, until they were looked at. Called by `site`. Decompositions
are made in float64 and with signs of their own choosing: machines whose libraries differ then agree on the float32 that
is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raylora.model.adapter.slot import Slot
from raylora.model.rows.seed import stable_seed

SMALL = 0.02
"""Standard deviation of AdaLoRA's matrices at their start."""


def random_start(settings: Slot, name: str, num_inputs: int) -> Tensor:
    """A at random, beside a B of zeros: uniform in +-1/sqrt(I) as ``nn.Linear`` and PEFT start it, or normal.

    Args:
        settings: The start, rank and seed count.
        name: Dotted name of the layer.
        num_inputs: I.

    Shapes:
        Returns (R, I), float32.
    """
    generator = torch.Generator().manual_seed(stable_seed("start", settings.seed, name))
    a_RI = torch.empty(settings.r, num_inputs)
    if settings.init_lora_weights == "gaussian":
        return a_RI.normal_(std=1 / settings.r, generator=generator)
    bound = num_inputs**-0.5
    return a_RI.uniform_(-bound, bound, generator=generator)


def small_start(settings: Slot, name: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A and B at random, both small, between them values that are zero: AdaLoRA as PEFT starts it.

    Args:
        settings: Rank and seed count.
        name: Dotted name of the layer.
        shape: O and I.

    Shapes:
        Returns (R, I) and (O, R), float32.
    """
    generator = torch.Generator().manual_seed(stable_seed("start", settings.seed, name))
    num_outputs, num_inputs = shape
    a_RI, b_OR = torch.empty(settings.r, num_inputs), torch.empty(num_outputs, settings.r)
    return a_RI.normal_(std=SMALL, generator=generator), b_OR.normal_(std=SMALL, generator=generator)


def base_start(settings: Slot, name: str, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """A and B out of a weight: scale B A is its part that trains, or gives most of what quantization took from it back.

    LoftQ quantizes again what its A and B leave, and takes them anew, T times. Here the base is shared and stays as it
    is, so T = 1: A and B are the best of their rank for the base as quantized, and nothing is quantized again.

    Args:
        settings: The start, rank, scale and seed count.
        name: Dotted name of the layer.
        weight_OI: Its weight, or for LoftQ its weight less the weight as the base holds it.

    Shapes:
        weight_OI: (O, I). Returns (R, I) and (O, R), float32.

    Source: PiSSA, https://arxiv.org/abs/2404.02948, equations 2 to 4; OLoRA, https://arxiv.org/abs/2406.01775,
        algorithm 1; LoftQ, https://arxiv.org/abs/2310.08659, algorithm 1 with T = 1; the scale as PEFT applies it to
        PiSSA and OLoRA: the pair of the former is divided by it, that of the latter is not. PEFT's LoftQ takes it for
        1; here any scale gives the same B A.
    """
    weight_OI = weight_OI.double()
    if settings.init_lora_weights == "olora":
        q_OK, r_KI = torch.linalg.qr(weight_OI)
        return r_KI[: settings.r].float(), q_OK[:, : settings.r].float()
    u_OR, s_R, v_IR = _principal(settings, name, weight_OI)
    root_R = (s_R / settings.scale).sqrt()
    signs_R = u_OR.gather(0, u_OR.abs().argmax(0, keepdim=True)).sign()
    return (v_IR * signs_R * root_R).t().float().contiguous(), (u_OR * signs_R * root_R).float()


def _principal(settings: Slot, name: str, weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values and their vectors, exact or by subspace iterations from random vectors."""
    _, _, num_iterations = str(settings.init_lora_weights).partition("_niter_")
    if not num_iterations:
        u_OK, s_K, vh_KI = torch.linalg.svd(weight_OI, full_matrices=False)
        return u_OK[:, : settings.r], s_K[: settings.r], vh_KI[: settings.r].t()
    with torch.random.fork_rng([weight_OI.device] if weight_OI.is_cuda else []):
        torch.manual_seed(stable_seed("start", settings.seed, name))
        found: tuple[Tensor, Tensor, Tensor] = torch.svd_lowrank(weight_OI, settings.r, int(num_iterations))
        return found
