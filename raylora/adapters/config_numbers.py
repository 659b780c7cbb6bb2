"""The numbers in an adapter's config: another tool's folder may have anything in their place.

A config enters; what is wrong with it leaves. Called by `layers`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def wrong_numbers(config: Mapping[str, Any]) -> list[str]:
    """Say which of the numbers that decide what an adapter does are none, what was got and what is allowed.

    Args:
        config: Of LoRA, where the rank stands in for an alpha that is absent, of AdaLoRA or of VeRA.
    """
    if config.get("peft_type") == "VERA":
        return _wrong_of_vera(config)
    is_adalora = config.get("peft_type") == "ADALORA"
    wrong = []
    if ("lora_alpha" in config or is_adalora) and not _is_number(config.get("lora_alpha")):
        wrong.append(f"lora_alpha: got {config.get('lora_alpha')!r}; allowed: a finite number")
    elif config.get("lora_alpha") == 0:  # llama.cpp would take 0 for a scale of 1
        wrong.append("lora_alpha: got 0, with which it adds nothing; allowed: another number")
    if is_adalora and not (_is_number(config.get("init_r")) and config["init_r"] > 0):
        wrong.append(f"init_r: got {config.get('init_r')!r}; allowed: a number above 0")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping) or not all(map(_is_number, patterns.values())):
        wrong.append(f"alpha_pattern: got {patterns!r}; allowed: finite numbers by names of layers")
    return wrong


def _wrong_of_vera(config: Mapping[str, Any]) -> list[str]:
    wrong = []
    if not _is_whole(config.get("r"), 1):
        wrong.append(f"r: got {config.get('r')!r}; allowed: a whole number of at least 1")
    if not _is_whole(config.get("projection_prng_key", 0), 0):
        wrong.append(f"projection_prng_key: got {config['projection_prng_key']!r}; allowed: a whole number from 0 on")
    return wrong


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # JSON has whole numbers that no float holds, too
