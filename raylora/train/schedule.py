"""The learning rate of each step: warm-up, then one of four shapes."""

from __future__ import annotations

import math

from raylora.spec.fields.train import TrainFields


def num_warmup_steps(spec: TrainFields, num_steps: int) -> int:
    """Steps of linear warm-up: ``warmup_steps``, or ``warmup_ratio`` of all steps, rounded up.

    Args:
        spec: Where the schedule is written.
        num_steps: Steps of the whole run.
    """
    return spec.warmup_steps if spec.warmup_steps is not None else math.ceil(spec.warmup_ratio * num_steps)


def learning_rate(spec: TrainFields, step: int, num_steps: int) -> float:
    """The learning rate of one optimizer step.

    Args:
        spec: Peak rate, shape and warm-up.
        step: From 0 to ``num_steps`` - 1.
        num_steps: Optimizer steps of the whole run.

    Source: the schedules of transformers' ``optimization`` module, whose numbers these are; warmup-stable-decay is
        MiniCPM's, https://arxiv.org/abs/2404.06395, with a linear decay to zero.
    """
    warmup = num_warmup_steps(spec, num_steps)
    if step < warmup:
        return spec.learning_rate * step / warmup
    return spec.learning_rate * _shape(spec, step, warmup, num_steps)


def _shape(spec: TrainFields, step: int, warmup: int, num_steps: int) -> float:
    if spec.lr_scheduler == "constant":
        return 1.0
    if spec.lr_scheduler == "warmup_stable_decay":
        num_decay = math.ceil(spec.decay_ratio * num_steps)
        return min(1.0, (num_steps - step) / num_decay) if num_decay else 1.0
    progress = (step - warmup) / max(1, num_steps - warmup)
    if spec.lr_scheduler == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
