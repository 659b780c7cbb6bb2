"""The command ``export``: an adapter as the folder that PEFT, a server or llama.cpp loads, with a card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from raylora.cli.adapter import AdapterWord, BaseOption, StoreOption, find_adapter
from raylora.cli.output import Json, err, print_json, say
from raylora.errors import together

if TYPE_CHECKING:
    from raylora.adapters.delta import Delta


def export(
    adapter: AdapterWord,
    for_: Annotated[
        str, typer.Option("--for", help="What is to load it: peft, vllm, sglang, lorax, ray-serve or gguf (llama.cpp).")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder to make; it may exist if it is empty.")],
    max_rank: Annotated[
        int | None,
        typer.Option("--max-rank", help="Largest rank: larger updates are replaced by the nearest of this rank."),
    ] = None,
    base_name: Annotated[
        str | None,
        typer.Option("--base-name", help="Hub id of the base, where the adapter was trained from a file or folder."),
    ] = None,
    base: BaseOption = None,
    store: StoreOption = None,
    json_: Json = False,
) -> None:
    """Write an adapter as a server loads it; what the server would reject is refused, with the way out."""
    from raylora.adapters.serving.asked import Asked
    from raylora.adapters.serving.served_folder import export_adapter
    from raylora.adapters.stored import read_adapter
    from raylora.store.before_start import Checks, before_start

    checks = Checks()
    place = checks.of(lambda: find_adapter(adapter, store, base))
    stored = None if place is None else checks.of(partial(read_adapter, place.uri))
    known, template = (None, None) if place is None else (place.base, place.chat_template)
    asked = Asked(for_, folder, max_rank, base_name, known, template is not None, base is not None)
    if stored is None:
        raise together([*asked.problems(), *checks.errors])
    with before_start():
        written = export_adapter(stored, asked, _with_a_bar)
    if json_:
        told = {
            "path": str(written.path),
            "for": for_,
            "files": written.files,
            "r": written.r,
            "rank_error": written.rank_error,
            "base_model": written.base_model,
            "warnings": written.warnings,
        }
        print_json(told)
        return
    for warning in written.warnings:
        say(f"warning: {warning}", err)
    if (lost := written.rank_error) is not None:
        numbers = f"mean {lost['mean']:.2%}, max {lost['max']:.2%}"
        say(f"lost by rank {max_rank}, ||D - D_r|| / ||D|| of each layer: {numbers}")
    for file in written.files:
        say(str(written.path / file))


def _with_a_bar(deltas: Sequence[Delta]) -> Iterable[Delta]:
    return track(deltas, "lowering the rank", console=err, transient=True, disable=not err.is_terminal)
