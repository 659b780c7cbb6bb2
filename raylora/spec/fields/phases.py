"""AdaLoRA's phases: all ranks train, ranks are taken away, those that are left train on.

The steps of a run enter; the lengths of its first and last phase leave, or why there is nothing between them. Called by
the rules of a run and, where only the rows tell its steps, at its start.
"""

from __future__ import annotations

from raylora.spec.fields.adapter import AdapterFields

TINIT_TENTHS, TFINAL_TENTHS = 1, 3
"""Of a run's steps, where `tinit` and `tfinal` are absent. PEFT's 0 and 0 judge ranks by the first gradients and train no
step with the ranks that are left."""

FEWEST = 2
"""Steps before the last phase: ranks are judged by the gradients of the steps before the one that takes them."""


def phases(spec: AdapterFields, num_steps: int) -> tuple[int, int]:
    """Steps of the first and of the last phase.

    Args:
        spec: `tinit` and `tfinal` count.
        num_steps: Of the whole run.

    Source: AdaLoRA, https://arxiv.org/abs/2303.10512, equation 12.
    """
    tinit = num_steps * TINIT_TENTHS // 10 if spec.tinit is None else spec.tinit
    tfinal = num_steps * TFINAL_TENTHS // 10 if spec.tfinal is None else spec.tfinal
    return tinit, tfinal


def why_no_phases(spec: AdapterFields, num_steps: int) -> str | None:
    """Say why a run has no steps in which ranks are taken away; None where it has.

    Args:
        spec: `tinit` and `tfinal` count.
        num_steps: Of the whole run.
    """
    tinit, tfinal = phases(spec, num_steps)
    if tinit + tfinal < num_steps and num_steps - tfinal >= FEWEST:
        return None
    return (
        f"got {tinit} and tfinal: {tfinal}, which leave no step of {num_steps} to take ranks away; allowed: together "
        f"fewer than the run's steps, and at least {FEWEST} steps before the last {tfinal}. Lower them, or train longer"
    )
