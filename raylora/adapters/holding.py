"""How the base of stored adapters is held: in the word of their lineage, and in the fields of a run.

Adapters enter; the word that they agree on leaves, and for a word the fields that ask for it. Called by what loads a
base for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.log import get_logger

log = get_logger(__name__)

PLAIN = "none"


def _four_bits(code: str, doubled: bool) -> dict[str, Any]:
    return {"load_in_4bit": True, "bnb_4bit_quant_type": code, "bnb_4bit_use_double_quant": doubled}


FIELDS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "int8": {"load_in_8bit": True},
    "nf4": _four_bits("nf4", False),
    "nf4-double": _four_bits("nf4", True),
    "fp4": _four_bits("fp4", False),
    "fp4-double": _four_bits("fp4", True),
}
"""Fields of a run by the words of a lineage's ``quantization``."""


def holding_of(adapters: Mapping[str, StoredAdapter]) -> str:
    """The word for how the base was held when they were trained; ``none`` where no lineage says it.

    Args:
        adapters: By name; those without a lineage take the base as the others do.

    Raises:
        ModelError: They say several, or one that is not known.
    """
    said = {name: str(each.about["quantization"]) for name, each in adapters.items() if each.about.get("quantization")}
    if len(set(said.values())) > 1:
        each_one = ", ".join(f"{name}: {word}" for name, word in said.items())
        raise ModelError(
            f"quantization: the adapters were trained over a base held in several ways ({each_one}). Allowed: one for "
            "all. To generate and chat, say which with --load-in-4bit, --load-in-8bit or --no-quantize"
        )
    word = next(iter(said.values()), PLAIN)
    if word not in FIELDS:
        raise ModelError(
            f"quantization: {next(iter(said))} was trained over a base held as {word!r}. Known: {', '.join(FIELDS)}. "
            "To generate and chat, say how to hold it with --load-in-4bit, --load-in-8bit or --no-quantize"
        )
    return word


def warn_of_other_holding(adapters: Mapping[str, StoredAdapter], word: str) -> None:
    """Say which adapters have what quantization took from a base that is held otherwise now.

    Args:
        adapters: By name.
        word: How the base is held, a key of `FIELDS`.
    """
    for name, adapter in adapters.items():
        if adapter.is_of_quantized_base and (trained_on := adapter.about.get("quantization")) != word:
            log.warning(
                "%s started as LoftQ over a base held as %s and belongs to that; held as %s, it answers otherwise",
                name,
                trained_on,
                word,
            )
