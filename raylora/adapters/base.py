"""The base that an adapter was trained on, found again and checked.

An adapter and a place enter; the base as a local folder, or its config alone, leaves. Called by what needs both:
merging, evaluation, talk, and exporting to where the layers of a base have other names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from transformers import PretrainedConfig

from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError
from raylora.log import get_logger
from raylora.model.source.source import BaseFolder, base_commit, base_config, resolve_base
from raylora.spec.run import RunSpec

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class BasePlace:
    """Where a base is.

    Args:
        base_model: As in a run's configuration: hub id, folder, `.gguf` file, ``package:`` or ``s3://``.
        revision: Of a hub id.
    """

    base_model: str
    revision: str | None = None


def open_base(adapter: StoredAdapter, place: BasePlace | None, cache: Path) -> BaseFolder:
    """Bring an adapter's base to this machine.

    Args:
        adapter: What was trained on it.
        place: Where it is; where the adapter's config says, if ``None``.
        cache: Folder for what is converted or downloaded.

    Raises:
        ModelError: There is no such base, or it is another one than the adapter was trained on.
        StoreError: Storage cannot be read.
    """
    base = base_of(adapter, place, cache)
    check_base(adapter, base)
    return base


def base_of(adapter: StoredAdapter, place: BasePlace | None, cache: Path) -> BaseFolder:
    """Bring an adapter's base to this machine, whichever it is.

    Args:
        adapter: What was trained on it.
        place: Where it is; where the adapter's config says, if ``None``.
        cache: Folder for what is converted or downloaded.

    Raises:
        ModelError: There is no such base.
        StoreError: Storage cannot be read.
    """
    return _found(adapter, place, lambda where: find_base(where, cache))


def config_of_base(adapter: StoredAdapter, place: BasePlace | None) -> PretrainedConfig:
    """Read the config of an adapter's base, without its weights and so without its digest.

    Args:
        adapter: What was trained on it.
        place: Where it is; where the adapter's config says, if ``None``.

    Raises:
        ModelError: There is no such base.
        StoreError: Storage cannot be read.
    """
    return _found(adapter, place, lambda where: base_config(_as_run(where)))


def check_place(adapter: StoredAdapter, place: BasePlace | None, cache: Path) -> None:
    """Refuse a place whose base the adapter was not trained on, where nothing of it but its config is wanted.

    The commit tells it where both have one and it is the same. Else the digest does, for which weights that lie
    elsewhere are fetched.

    Args:
        adapter: What was trained.
        place: Where its base should be; where the adapter's config says, if ``None``.
        cache: Folder for what is converted or downloaded.

    Raises:
        ModelError: There is no such base, or it is another one.
        StoreError: Storage cannot be read.
    """
    if adapter.base_digest is None:
        log.warning("adapter: %s does not say the digest of its base, which was not checked", adapter.uri)
    elif adapter.base_revision is None or adapter.base_revision != _found(adapter, place, partial(_commit, adapter)):
        open_base(adapter, place, cache)


def _commit(adapter: StoredAdapter, place: BasePlace) -> str | None:
    """Of the base at a place, if it is called as the adapter's is."""
    return base_commit(_as_run(place)) if place.base_model == adapter.base_name else None


def _said_base(adapter: StoredAdapter) -> BasePlace:
    """Where an adapter's config says that its base is.

    Raises:
        ModelError: It does not say it.
    """
    if not adapter.base_name:
        raise ModelError(f"adapter: {adapter.uri} does not say what its base is; say it with --base")
    return BasePlace(adapter.base_name, adapter.base_revision)


def find_base(place: BasePlace, cache: Path) -> BaseFolder:
    """Bring a base to this machine, whatever was trained on it.

    Args:
        place: Where it is.
        cache: Folder for what is converted or downloaded.

    Raises:
        ModelError: There is no such base.
        StoreError: Storage cannot be read.
    """
    return resolve_base(_as_run(place), cache)


def _found(adapter: StoredAdapter, place: BasePlace | None, find: Callable[[BasePlace], T]) -> T:
    if place is not None:
        return find(place)
    said = _said_base(adapter)
    try:
        return find(said)
    except ModelError as error:
        raise ModelError(
            f"{error}\nThe base of {adapter.uri} is called {said.base_model} in its config; say where it is with --base"
        ) from error


def _as_run(place: BasePlace) -> RunSpec:
    """A base as a run names it: what a base may be is said in one place."""
    fields = {"base_model": place.base_model, "base_model_revision": place.revision}
    try:
        return RunSpec.model_validate(fields | {"datasets": [{"path": "none"}]})
    except ValidationError as error:
        raise ModelError(
            f"base: {error.errors()[0]['msg']}. Allowed: what base_model may be, such as a hub id or a folder. Say it "
            "with --base"
        ) from error


def check_base(adapter: StoredAdapter, base: BaseFolder) -> None:
    """Refuse a base that the adapter was not trained on, by its digest; say so where no digest is known.

    Args:
        adapter: What was trained.
        base: A candidate.

    Raises:
        ModelError: Its tensors are others.
    """
    if adapter.base_digest is None:
        log.warning("adapter: %s does not say the digest of its base; %s was not checked", adapter.uri, base.name)
    elif adapter.base_digest != base.digest:
        raise ModelError(
            f"adapter: {adapter.uri} was trained on another base than {base.name}: its digest is "
            f"{adapter.base_digest[:12]}, this one's {base.digest[:12]}. Name the base it was trained on"
            f"{f', {adapter.base_name},' if adapter.base_name else ''} with --base"
        )
