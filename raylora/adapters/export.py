"""An adapter as the folder that a server loads it from, with a card; not to be confused with `raylora.model.export`.

That one publishes what was trained; this one takes a stored adapter, whoever wrote it, to where it is served. A
`StoredAdapter` and what was asked enter; a folder, whole or not at all, leaves. Called by the command `export`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raylora.adapters.base import config_of_base
from raylora.adapters.card import CardFacts, card
from raylora.adapters.delta import Delta, deltas
from raylora.adapters.export_asked import Asked, BaseName, base_named, refused_words
from raylora.adapters.export_files import Content, peft_files, warnings_of
from raylora.adapters.gguf_adapter import Layout, gguf_layout, write_gguf
from raylora.adapters.new_folder import free_place, new_folder, writing
from raylora.adapters.rerank import evened, reranked
from raylora.adapters.servers import Server, is_dora, refused_kinds, refused_layers, server_called
from raylora.adapters.stored import StoredAdapter
from raylora.errors import InputError, ModelError, together

GGUF_FILE, CARD_FILE = "adapter.gguf", "README.md"

FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")

Follow = Callable[[Sequence[Delta]], Iterable[Delta]]
"""Hands out updates one by one, as a progress bar does."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: The folder.
        files: In it, by their names relative to it.
        r: Rank as written; ``None`` where the adapter has none.
        rank_error: Mean and largest relative error of the layers' updates where a largest rank was asked for.
        base_model: Logical id of the base.
        warnings: What is well to know, a sentence each.
    """

    path: Path
    files: Sequence[str]
    r: int | None
    rank_error: Mapping[str, float] | None
    base_model: str
    warnings: Sequence[str]


def export_adapter(adapter: StoredAdapter, asked: Asked, follow: Follow = iter) -> Exported:
    """Write an adapter as a server loads it.

    Args:
        adapter: What was trained.
        asked: For which server, where to and how.
        follow: Goes over the layers whose rank is lowered, which takes a while.

    Raises:
        InputError: All that is wrong at once, before anything is written: the words, a kind or a rank that the server
            does not load, a base that it cannot be told of. Or the folder cannot be made.
        StoreError: Storage cannot be read, or the folder cannot be written.
    """
    server = server_called(asked.word)
    errors = [InputError(problem) for problem in refused_words(asked)]
    errors += [ModelError(problem) for problem in refused_kinds(server, adapter)]
    base = _tried(errors, lambda: base_named(adapter, asked.base_name))
    looked_at = not server.reads_all or asked.max_rank is not None
    found = _tried(errors, lambda: deltas(adapter)) if looked_at else None
    layout = None if found is None else _check(server, adapter, found, asked, errors)
    if errors or base is None:
        raise together(errors)
    content = _content(server, found or {}, asked.max_rank, layout, follow)
    return _write(server, adapter, asked, base, content)


def _tried(errors: list[InputError], attempt: Callable[[], _T]) -> _T | None:
    try:
        return attempt()
    except InputError as error:
        errors.append(error)
        return None


def _check(
    server: Server, adapter: StoredAdapter, found: Mapping[str, Delta], asked: Asked, errors: list[InputError]
) -> Layout | None:
    """Add what the server does not load of the layers; returns their places in GGUF, where that is asked for."""
    r, max_rank = max(delta.r for delta in found.values()), asked.max_rank
    if server.reads_all and is_dora(adapter) and max_rank is not None and r > max_rank:
        errors.append(
            ModelError(
                f"--max-rank: got {max_rank} for DoRA of rank {r}, whose magnitudes belong to the whole update. "
                f"Merge it: raylora merge {adapter.uri} --out FOLDER"
            )
        )
    written = r if max_rank is None else min(r, max_rank)
    errors += [ModelError(problem) for problem in refused_layers(server, found, written)]
    if asked.word != "gguf":
        return None
    return _tried(errors, lambda: gguf_layout(config_of_base(adapter, asked.place), found))


def _content(
    server: Server, found: Mapping[str, Delta], max_rank: int | None, layout: Layout | None, follow: Follow
) -> Content:
    updates: Mapping[str, Delta] = found
    lost: Mapping[str, float] | None = None
    if max_rank is not None:
        updates, lost = reranked(follow(list(found.values())), max_rank)
    if server.reads_all and all(updates[module] is delta for module, delta in found.items()):
        return Content(found, lost)
    return Content(found, lost, evened(updates), layout)


def _write(server: Server, adapter: StoredAdapter, asked: Asked, base: BaseName, content: Content) -> Exported:
    out = free_place(asked.out)
    is_one_of_many = asked.word == "ray-serve"  # it is told of a folder of folders, each an adapter's
    name = _name_of(adapter, out) if is_one_of_many else out.name
    even, layout = content.even, content.layout
    r = even.r if even is not None else adapter.config.get("r")
    facts = CardFacts(
        word=asked.word,
        name=GGUF_FILE if layout is not None else name,
        base_name=base.name,
        base_revision=base.revision,
        r=r,
        kinds=content.kinds,
        about=adapter.about,
        rank_error=content.rank_error,
        has_own_template=asked.has_own_template,
    )
    with new_folder(out) as partial, writing(out):
        home = partial / name if is_one_of_many else partial
        home.mkdir(exist_ok=True)
        if even is not None and layout is not None:
            write_gguf(home / GGUF_FILE, even, layout, base.name)
        else:
            for file, data in peft_files(server, adapter, base, content).items():
                (home / file).write_bytes(data)
        (home / CARD_FILE).write_text(card(facts), encoding="utf-8")
        files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
    told = warnings_of(adapter, server, base, content)
    if asked.has_own_template:
        told.append("it was trained with a chat template of its own, not the base's; give the server the run's")
    return Exported(out, files, r, content.rank_error, base.name, told)


def _name_of(adapter: StoredAdapter, out: Path) -> str:
    """The run's, if it is one: a manifest is a text that anybody can write, and the name becomes a folder's."""
    run_id = str(adapter.about.get("run_id") or "")
    return run_id if FOLDER_NAME.fullmatch(run_id) else out.name
