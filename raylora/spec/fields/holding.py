"""How a base is held, in a word: `none`, `int8`, `nf4`, `nf4-double` and so on.

A run enters and its word leaves; the fields of a run that ask for a word stand beside it. Called by lineage, which keeps
the word with an adapter, and by what holds a base for that adapter again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.spec.fields.base import BaseFields

PLAIN = "none"
DOUBLED = "-double"
"""Ending of a word: the scales of 4-bit blocks are quantized too."""


def _four_bits(code: str, doubled: bool) -> dict[str, Any]:
    return {"load_in_4bit": True, "bnb_4bit_quant_type": code, "bnb_4bit_use_double_quant": doubled}


FIELDS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "int8": {"load_in_8bit": True},
    "nf4": _four_bits("nf4", False),
    f"nf4{DOUBLED}": _four_bits("nf4", True),
    "fp4": _four_bits("fp4", False),
    f"fp4{DOUBLED}": _four_bits("fp4", True),
}
"""Fields of a run that ask for it, by word."""


def word_for(spec: BaseFields) -> str:
    """The word for how a run holds its base, a key of `FIELDS`."""
    doubled = spec.load_in_4bit and spec.bnb_4bit_use_double_quant
    return f"{spec.quantization}{DOUBLED}" if doubled else spec.quantization
