"""The numbers in an adapter's config: another tool's folder may have anything in their place.

A config enters; what is wrong with it leaves. Called by `delta`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def wrong_numbers(config: Mapping[str, Any]) -> list[str]:
    """Say which of the numbers that decide a scale are none, what was got and what is allowed.

    Args:
        config: Of LoRA, where the rank stands in for an alpha that is absent, or of AdaLoRA.
    """
    is_adalora = config.get("peft_type") == "ADALORA"
    wrong = []
    if ("lora_alpha" in config or is_adalora) and not _is_number(config.get("lora_alpha")):
        wrong.append(f"lora_alpha: got {config.get('lora_alpha')!r}; allowed: a finite number")
    if is_adalora and not (_is_number(config.get("init_r")) and config["init_r"] > 0):
        wrong.append(f"init_r: got {config.get('init_r')!r}; allowed: a number above 0")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping) or not all(map(_is_number, patterns.values())):
        wrong.append(f"alpha_pattern: got {patterns!r}; allowed: finite numbers by names of layers")
    return wrong


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # JSON has whole numbers that no float holds, too
