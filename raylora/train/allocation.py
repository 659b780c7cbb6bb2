"""AdaLoRA in training: what keeps an update's vectors orthogonal, and which of its ranks are left.

A slot's parameters and the steps of its run enter; an addition to the loss and zeros among the values leave. PEFT's
allocator judges the ranks of the update, by gradients that are summed over workers, so that all of them come to the
same. Called by the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raylora.errors import InputError
from raylora.model.adapter.adalora import VALUES, pruned
from raylora.model.adapter.bank import Adapter
from raylora.spec.fields.phases import phases, why_no_phases
from raylora.spec.fields.run import RunFields

BETA = 0.85
"""Of both means that a rank's importance is made of; AdaLoRA, https://arxiv.org/abs/2303.10512, equations 9 and 10."""

SUFFIX = ".default"
"""What PEFT's names of parameters end with: the adapter's."""

MEANS = ("exp_avg_ipt", "exp_avg_unc")
"""PEFT's names of the two means, each as large as the adapter."""

LEFT = "left"


class Allocation:
    """The ranks of one slot.

    Args:
        spec: Of the slot's run.
        parameters: Of the slot, by ``<module>.lora_A``, ``.lora_B`` and ``.lora_E``.
        num_steps: Of the whole run.

    Raises:
        InputError: The run has no steps in which ranks could be taken away.
    """

    def __init__(self, spec: RunFields, parameters: Mapping[str, nn.Parameter], num_steps: int) -> None:
        if (why := why_no_phases(spec, num_steps)) is not None:
            raise InputError(f"tinit: {why}")
        from peft.tuners.adalora import AdaLoraConfig, RankAllocator  # seconds of import that only this kind needs

        tinit, tfinal = phases(spec, num_steps)
        self._parameters, self._weight, self._last = dict(parameters), spec.orth_reg_weight, num_steps - tfinal
        self._settings: dict[str, Any] = {
            "init_r": spec.lora_r,
            "target_r": spec.target_r,
            "tinit": tinit,
            "tfinal": tfinal,
            "deltaT": spec.deltaT,
            "beta1": BETA,
            "beta2": BETA,
            "orth_reg_weight": spec.orth_reg_weight,
            "total_step": num_steps,
        }
        self._allocator: Any = RankAllocator(self, AdaLoraConfig(**self._settings), SUFFIX.removeprefix("."))
        self._left: dict[str, list[bool]] = {}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The slot's parameters as PEFT's allocator finds them in a model."""
        return ((name + SUFFIX, parameter) for name, parameter in self._parameters.items())

    def penalty(self) -> Tensor | None:
        """See :func:`penalty_of`."""
        return penalty_of(self._parameters, self._weight)

    def after_update(self, step: int) -> None:
        """Judge the ranks by the gradients, which must still be there, and set values of those that go to zero.

        Args:
            step: Updates done, this one among them.

        Source: AdaLoRA, https://arxiv.org/abs/2303.10512, algorithm 1, in the order of PEFT's
            ``AdaLoraModel.update_and_allocate``: the update first.
        """
        allocator, is_last = self._allocator, step >= self._last
        if is_last and not allocator.exp_avg_ipt:  # it is settled which are left; the update moved the others again
            allocator.mask_using_rank_pattern(self, self._left)
            return
        _, left = allocator.update_and_allocate(self, step, force_mask=is_last)
        self._left = left or self._left
        allocator.ipt = dict.fromkeys(allocator.ipt)  # of the newest importance only the names are looked at again
        if is_last:
            allocator.reset_ipt()

    @property
    def ranks(self) -> dict[str, int]:
        """How many are left of each layer, by its dotted name."""
        return {
            name.removesuffix(f".{VALUES}"): int(torch.count_nonzero(parameter))
            for name, parameter in self._parameters.items()
            if name.endswith(VALUES)
        }

    def published(self, adapter: Adapter) -> Adapter:
        """The slot's adapter with the ranks that are left, and what PEFT asks to know of their allocation."""
        left = pruned(adapter)
        return replace(left, config=left.config | self._settings)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The means by ``<mean>.<parameter>``, and which ranks were left the last time by ``left.<parameter>``.

        The means are the live ones: who keeps them copies them.
        """
        for mean in MEANS:
            for name, value in getattr(self._allocator, mean).items():
                yield f"{mean}.{name.removesuffix(SUFFIX)}", value
        for name, flags in self._left.items():
            yield f"{LEFT}.{name.removesuffix(SUFFIX)}", torch.tensor(flags, dtype=torch.int32)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up copies of what :meth:`state` gave."""
        self._allocator.reset_ipt()
        self._left = {}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            if kind == LEFT:
                self._left[name + SUFFIX] = value.bool().tolist()
            else:
                here = value.to(self._parameters[name].device, copy=True)
                getattr(self._allocator, kind)[name + SUFFIX] = here
        self._allocator.ipt = dict.fromkeys(self._allocator.exp_avg_ipt)


def penalty_of(parameters: Mapping[str, Tensor], weight: float) -> Tensor | None:
    """What the loss has beside the rows: how far A A^T and B^T B are from the identity; ``None`` at weight 0.

    Args:
        parameters: Of a slot, as of `Allocation`.
        weight: `orth_reg_weight`.

    Source: AdaLoRA, https://arxiv.org/abs/2303.10512, equation 4; the mean over matrices as in PEFT.
    """
    if not weight:
        return None
    named = [(name, each) for name, each in parameters.items() if not name.endswith(VALUES)]
    matrices = [each.mT if name.endswith("lora_B") else each for name, each in named]
    squares_MRR = torch.stack([matrix @ matrix.mT for matrix in matrices])
    identity_RR = torch.eye(squares_MRR.shape[-1], device=squares_MRR.device)
    distance: Tensor = torch.linalg.matrix_norm(squares_MRR - identity_RR).mean()
    return weight * distance
