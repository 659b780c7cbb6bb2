"""What evaluations tell beside the loss, by what a run learns: what sweeps may be judged by.

The sweep's fields and rules ask. Which names there are is the objectives' choice; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Metric = Literal[
    "eval_loss",
    "train_loss",
    "eval_perplexity",
    "eval_token_accuracy",
    "eval_reward_accuracy",
    "eval_reward_margin",
    "eval_reward_desirable",
    "eval_reward_undesirable",
    "eval_kl",
    "eval_accuracy",
    "eval_f1",
]
"""What a sweep may be judged by."""

LOSSES = ("eval_loss", "train_loss")
"""What every run tells."""

_OF_PAIRS = ("eval_reward_accuracy", "eval_reward_margin")

_OF_CLASSES = ("eval_accuracy", "eval_f1")

_OF_TOKENS = ("eval_perplexity", "eval_token_accuracy")

TOLD: Mapping[str, tuple[str, ...]] = {
    "causal_lm": _OF_TOKENS,
    "seq_2_seq_lm": _OF_TOKENS,
    "seq_cls": _OF_CLASSES,
    "token_cls": _OF_CLASSES,
    "image_cls": _OF_CLASSES,
    "audio_cls": _OF_CLASSES,
    "reward": _OF_PAIRS,
    "dpo": _OF_PAIRS,
    "ipo": _OF_PAIRS,
    "orpo": _OF_PAIRS,
    "kto": ("eval_reward_desirable", "eval_reward_undesirable", "eval_reward_margin", "eval_kl"),
}
"""By `rl`, or where it is absent by `task_type`, what evaluations tell beside the loss."""

GREATER_IS_BETTER = (
    "eval_token_accuracy",
    "eval_reward_accuracy",
    "eval_reward_margin",
    "eval_reward_desirable",
    *_OF_CLASSES,
)
