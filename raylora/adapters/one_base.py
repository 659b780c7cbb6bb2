"""The one base of several adapters, found again and checked against each of them.

Adapters and a place enter; the base as a local folder leaves. Called by what puts adapters side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raylora.adapters.base import BasePlace, base_of, check_base, find_base
from raylora.adapters.layers import why_other_task
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError, together
from raylora.model.source.source import BaseFolder


def open_one_base(adapters: Mapping[str, StoredAdapter], place: BasePlace | None, cache: Path) -> BaseFolder:
    """Bring the base of some adapters to this machine.

    Args:
        adapters: By name; none where a place is given and the base alone is wanted.
        place: Where it is; where the first adapter's config says, if ``None``.
        cache: Folder for what is converted or downloaded.

    Raises:
        ModelError: There is no such base, or some of the adapters, all of which are named, were trained on another or
            for another task than the next token.
        StoreError: Storage cannot be read.
    """
    others = {each.uri: why for each in adapters.values() if (why := why_other_task(each.config)) is not None}
    if others:  # whose base need not be one that is found here
        raise together([ModelError(f"adapter: {uri} {why}") for uri, why in others.items()])
    base = find_base(place, cache) if place is not None else base_of(next(iter(adapters.values())), None, cache)
    refusals = []
    for adapter in adapters.values():
        try:
            check_base(adapter, base)
        except ModelError as error:
            refusals.append(error)
    if refusals:
        raise together(refusals)
    return base


def check_same_base(adapters: Mapping[str, StoredAdapter]) -> None:
    """Refuse adapters of different bases by what they say themselves, before any base is opened.

    Args:
        adapters: By name. One that says no digest is told from the others by the name of its base.

    Raises:
        ModelError: They are of several.
    """
    digests = {each.base_name: each.base_digest for each in adapters.values() if each.base_digest is not None}
    bases = {each.base_digest or digests.get(each.base_name) or each.base_name for each in adapters.values()}
    if len(bases) > 1:
        lines = "\n".join(f"  {name}: {_shown(each)}" for name, each in adapters.items())
        raise ModelError(
            f"adapters: {len(adapters)} adapters of {len(bases)} bases. Allowed: one base for all. Leave some out; "
            f"generate and chat take --base where one base has several names\n{lines}"
        )


def _shown(adapter: StoredAdapter) -> str:
    digest = "" if adapter.base_digest is None else f", digest {adapter.base_digest[:12]}"
    return f"{adapter.base_name}{digest}"
