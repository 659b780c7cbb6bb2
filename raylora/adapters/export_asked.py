"""What was asked of an export, and what is wrong with it before the adapter itself is looked at. Called by `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raylora.adapters.base import BasePlace
from raylora.adapters.new_folder import free_place
from raylora.adapters.stored import StoredAdapter
from raylora.errors import InputError
from raylora.model.folder import LOGICAL_NAME


@dataclass(frozen=True)
class Asked:
    """An export as asked.

    Args:
        word: Server, a key of `raylora.adapters.servers.SERVERS`.
        out: Folder to make; it may exist if it is empty.
        max_rank: Largest rank, at least 1; updates of a larger one are replaced by the nearest of this rank.
        base_name: Logical id of the base, in place of the adapter's own word for it.
        place: Where the base is, for GGUF, which needs its config; ``None`` where the adapter says it.
        has_own_template: Whether it was trained with a chat template that is not the base's.
    """

    word: str
    out: Path
    max_rank: int | None = None
    base_name: str | None = None
    place: BasePlace | None = None
    has_own_template: bool = False


@dataclass(frozen=True)
class BaseName:
    """The base as other machines know it.

    Args:
        name: Logical id.
        revision: Its commit, where it has one.
    """

    name: str
    revision: str | None


def refused_words(asked: Asked) -> list[str]:
    """Say what is wrong with a rank and a folder, a sentence each.

    Args:
        asked: The export.
    """
    problems = []
    if asked.max_rank is not None and asked.max_rank < 1:
        problems.append(f"--max-rank: got {asked.max_rank}; allowed: at least 1, such as 16")
    try:
        free_place(asked.out)
    except InputError as error:
        problems.append(str(error))
    return problems


def base_named(adapter: StoredAdapter, asked: str | None) -> BaseName:
    """Name the base for others.

    Args:
        adapter: Its config says a name, maybe a path of the machine that it was trained on.
        asked: In place of that.

    Raises:
        InputError: There is no name, or one that means nothing elsewhere.
    """
    name = asked if asked is not None else adapter.base_name
    if not name:
        raise InputError(f"adapter: {adapter.uri} does not say what its base is; say it with --base-name")
    if not LOGICAL_NAME.fullmatch(name):
        what = "--base-name" if asked is not None else "base_model_name_or_path of the adapter"
        raise InputError(
            f"{what}: got {name!r}, which is no name that other machines know. Allowed: a hub id such as "
            "Qwen/Qwen2.5-7B-Instruct. Say it with --base-name"
        )
    return BaseName(name, adapter.base_revision if name == adapter.base_name else None)
