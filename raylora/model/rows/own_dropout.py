"""What a base draws by chance in training, beside its adapters: dropout of its own, or noise of its routers.

A base's config enters; a reason leaves. It draws from torch's own generator, once for all rows of a pass, so the rows
of one adapter would draw otherwise beside another's than alone. Encoders whose rows lie one after the other draw for
each row by itself (`row_dropout`). Called where it is chosen who shares a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

from raylora.model.base.task_class import draws_by_rows

_DRAWN = ("drop", "jitter")
_OF_OTHER_HEADS = ("classifier", "summary")


def own_dropout(config: PretrainedConfig) -> str | None:
    """Say what a base draws by chance in training; ``None`` where it draws nothing, or for each row by itself.

    Args:
        config: Of the base.
    """
    if draws_by_rows(config):
        return None
    drawn = dict(_probabilities(config.get_text_config().to_dict()))
    if not drawn:
        return None
    fields = ", ".join(f"{name}: {value}" for name, value in drawn.items())
    return f"draws by chance in training ({fields}; 0 in its config.json turns that off)"


def _probabilities(fields: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _probabilities(value)
        elif _is_drawn(str(name)) and isinstance(value, float | int) and value > 0 and value is not True:
            yield name, float(value)


def _is_drawn(name: str) -> bool:
    return any(part in name for part in _DRAWN) and not any(part in name for part in _OF_OTHER_HEADS)
