"""How the base of stored adapters is to be held: as it was when they were trained, by the word in their lineage.

Adapters enter; the word that they agree on leaves, a key of `raylora.spec.fields.holding.FIELDS`. Called by what loads
a base for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.log import get_logger
from raylora.spec.fields.holding import FIELDS, PLAIN

log = get_logger(__name__)


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
        word: How the base is held, a key of `raylora.spec.fields.holding.FIELDS`.
    """
    for name, adapter in adapters.items():
        if adapter.is_of_quantized_base and (trained_on := adapter.about.get("quantization")) != word:
            log.warning(
                "%s started as LoftQ over a base held as %s and belongs to that; held as %s, it answers otherwise",
                name,
                trained_on,
                word,
            )
