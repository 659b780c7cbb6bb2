"""What was asked of an export, and all that is wrong with it before the adapter itself is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from raylora.adapters.base import BasePlace
from raylora.adapters.new_folder import free_place
from raylora.adapters.serving.servers import SERVERS
from raylora.adapters.stored import StoredAdapter
from raylora.errors import InputError
from raylora.model.base.folder import LOGICAL_NAME
from raylora.store.home import cache_dir

NO_NAME = "which is no name that other machines know. Allowed: a hub id such as Qwen/Qwen2.5-7B-Instruct"


@dataclass(frozen=True)
class Asked:
    """An export as asked.

    Args:
        word: Server, a key of `SERVERS`.
        out: Folder to make; it may exist if it is empty.
        max_rank: Largest rank, at least 1; updates of a larger one are replaced by the nearest of this rank.
        base_name: Logical id of the base, in place of the adapter's own word for it.
        place: Where the base is, for GGUF and VeRA, which need its config; ``None`` where the adapter says it.
        has_own_template: Whether it was trained with a chat template that is not the base's.
        is_place_said: Whether somebody named that place now, who is told if it is another base's.
        cache: Folder for what is converted or downloaded to find that out.
    """

    word: str
    out: Path
    max_rank: int | None = None
    base_name: str | None = None
    place: BasePlace | None = None
    has_own_template: bool = False
    is_place_said: bool = False
    cache: Path = field(default_factory=cache_dir)

    def problems(self) -> list[InputError]:
        """All that is wrong with it, whatever the adapter is."""
        found = []
        if self.word not in SERVERS:
            found.append(f"--for: got {self.word!r}; allowed: {', '.join(SERVERS)}. Name one of them")
        if self.max_rank is not None and self.max_rank < 1:
            found.append(f"--max-rank: got {self.max_rank}; allowed: at least 1, such as 16")
        if self.base_name is not None and not LOGICAL_NAME.fullmatch(self.base_name):
            found.append(f"--base-name: got {self.base_name!r}, {NO_NAME}")
        try:
            free_place(self.out)
        except InputError as error:
            found.append(str(error))
        return [InputError(problem) for problem in found]


@dataclass(frozen=True)
class BaseName:
    """The base as other machines know it.

    Args:
        name: Logical id.
        revision: Its commit, where it has one.
    """

    name: str
    revision: str | None


def base_named(adapter: StoredAdapter, asked: Asked) -> BaseName:
    """Name the base for others.

    Args:
        adapter: Its config says a name, maybe a path of the machine that it was trained on.
        asked: Its word goes before; `problems` has looked at that.

    Raises:
        InputError: There is no name, or one that means nothing elsewhere.
    """
    name = adapter.base_name
    if asked.base_name is not None:
        return BaseName(asked.base_name, adapter.base_revision if asked.base_name == name else None)
    if not name:
        raise InputError(f"adapter: {adapter.uri} does not say what its base is; say it with --base-name")
    if not LOGICAL_NAME.fullmatch(name):
        raise InputError(f"base_model_name_or_path of the adapter: got {name!r}, {NO_NAME}. Say it with --base-name")
    return BaseName(name, adapter.base_revision)
