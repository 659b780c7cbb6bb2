"""A stored adapter, whoever wrote it, as the folder that a server loads it from, with a card.

A `StoredAdapter` and what was asked enter; a folder, whole or not at all, leaves. Called by the command `export`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylora.adapters.base import check_place, config_of_base
from raylora.adapters.delta import Delta
from raylora.adapters.layers import check_matrices, deltas, reads_base
from raylora.adapters.new_folder import free_place, new_folder, writing
from raylora.adapters.rerank import evened, reranked
from raylora.adapters.serving.asked import Asked, BaseName, base_named
from raylora.adapters.serving.card import CardFacts, card
from raylora.adapters.serving.gguf_file import Layout, gguf_layout, write_gguf
from raylora.adapters.serving.served_files import Content, lineage_of, peft_files, warnings_of
from raylora.adapters.serving.servers import SERVERS, Server, is_dora, refused_kinds, refused_layers
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError, together
from raylora.store.before_start import Checks
from raylora.store.manifest import MANIFEST, manifest_of

GGUF_FILE, CARD_FILE = "adapter.gguf", "README.md"

FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")

Follow = Callable[[Sequence[Delta]], Iterable[Delta]]
"""Hands out updates one by one, as a progress bar does."""


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
            does not load, a base that it cannot be told of or that is not there. Or a base that counts, or is named, is
            another than the adapter was trained on; or the folder cannot be made.
        StoreError: The folder cannot be written, or storage not be read.
    """
    checks = Checks()
    checks.errors += asked.problems()
    base, server = checks.of(lambda: base_named(adapter, asked)), SERVERS.get(asked.word)
    found, layout = (None, None) if server is None else _looked_at(server, adapter, asked, checks)
    if checks.errors or base is None or server is None:
        raise together(checks.errors)
    if asked.is_place_said or layout is not None or (found is not None and reads_base(adapter)):
        check_place(adapter, asked.place, asked.cache)
    content = _content(server, found or {}, asked.max_rank, layout, follow)
    return _write(server, adapter, asked, base, content)


def _looked_at(
    server: Server, adapter: StoredAdapter, asked: Asked, checks: Checks
) -> tuple[Mapping[str, Delta] | None, Layout | None]:
    """The layers, where somebody has to look at them, and their places in GGUF, where that is asked for."""
    checks.errors += [ModelError(problem) for problem in refused_kinds(server, adapter)]
    if server.reads_all and asked.max_rank is None:
        checks.of(lambda: check_matrices(adapter))
        return None, None
    found = checks.of(lambda: deltas(adapter, asked.place))
    return found, None if found is None else _check(server, adapter, found, asked, checks)


def _check(
    server: Server, adapter: StoredAdapter, found: Mapping[str, Delta], asked: Asked, checks: Checks
) -> Layout | None:
    """Add what the server does not load of the layers; returns their places in GGUF, where that is asked for."""
    r, max_rank = max(delta.r for delta in found.values()), asked.max_rank
    if server.reads_all and is_dora(adapter) and max_rank is not None and r > max_rank:
        checks.errors.append(
            ModelError(
                f"--max-rank: got {max_rank} for DoRA of rank {r}, whose magnitudes belong to the whole update. "
                f"Merge it: raylora merge {adapter.uri} --out FOLDER"
            )
        )
    written = r if max_rank is None else min(r, max_rank)
    checks.errors += [ModelError(problem) for problem in refused_layers(server, found, written)]
    if asked.word != "gguf":
        return None
    return checks.of(lambda: gguf_layout(config_of_base(adapter, asked.place), found))


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


def _num_labels(adapter: StoredAdapter) -> int | None:
    """Outputs of the head beside an adapter: rows of its last matrix."""
    saved = tuple(adapter.config.get("modules_to_save") or ())
    heads = [tensor for name, tensor in adapter.tensors.items() if f".{saved[0]}." in name] if saved else []
    matrices = [tensor for tensor in heads if tensor.ndim == 2]
    return min((matrix.shape[0] for matrix in matrices), default=None)


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
        about=adapter.about,
        rank_error=content.rank_error,
        has_own_template=asked.has_own_template,
        task_type=adapter.config.get("task_type") or str(adapter.about.get("task_type", "")).upper(),
        num_labels=_num_labels(adapter),
    )
    with new_folder(out) as partial, writing(out):
        home = partial / name if is_one_of_many else partial
        home.mkdir(exist_ok=True)
        if even is not None and layout is not None:
            write_gguf(home / GGUF_FILE, even, layout, base.name)
        else:
            for file, data in _adapter_files(server, adapter, base, content).items():
                (home / file).write_bytes(data)
        (home / CARD_FILE).write_text(card(facts), encoding="utf-8")
        files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
    told = warnings_of(adapter, server, base, content)
    if asked.has_own_template:
        told.append("it was trained with a chat template of its own, not the base's; give the server the run's")
    return Exported(out, files, r, content.rank_error, base.name, told)


def _adapter_files(server: Server, adapter: StoredAdapter, base: BaseName, content: Content) -> dict[str, bytes]:
    """What PEFT writes, and the manifest by which raylora knows it again; not of an adapter of unknown origin."""
    files = peft_files(server, adapter, base, content)
    if not adapter.about:
        return files
    # The card stays out of it: people go on writing there.
    return {**files, MANIFEST: manifest_of(files, lineage_of(adapter, base, content))}


def _name_of(adapter: StoredAdapter, out: Path) -> str:
    """The run's, if it is one: a manifest is a text that anybody can write, and the name becomes a folder's."""
    run_id = str(adapter.about.get("run_id") or "")
    return run_id if FOLDER_NAME.fullmatch(run_id) else out.name
