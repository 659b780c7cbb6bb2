"""The word for an adapter on the command line: a run, a sweep, one of its trials, or a folder. Its place leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylora.errors import InputError

if TYPE_CHECKING:
    from raylora.adapters.base import BasePlace
    from raylora.store.contract import Store

AdapterWord = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="A run, a sweep (its best trial), SWEEP/TRIAL, or an adapter's folder."),
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Store of runs; raylora's home where absent.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="The base it was trained on, as base_model says it; known for runs and sweeps."),
]


@dataclass(frozen=True)
class AdapterPlace:
    """Where an adapter is.

    Args:
        uri: Its folder.
        base: Its base as the run was told it; ``None`` for a folder.
    """

    uri: str
    base: BasePlace | None


def find_adapter(word: str, store_uri: str | None, base: str | None = None) -> AdapterPlace:
    """Find an adapter by what was typed.

    Args:
        word: Name of a run or a sweep, ``SWEEP/TRIAL``, or a folder or ``s3://`` URI of an adapter.
        store_uri: Store of the runs; raylora's home where ``None``.
        base: In place of the base that the run was trained on.

    Raises:
        InputError: There is nothing of that name, or it has no adapter.
    """
    from raylora.adapters.base import BasePlace
    from raylora.store.before_start import before_start
    from raylora.store.blob import open_store
    from raylora.store.home import default_store_uri

    with before_start():
        uri, spec = _found(open_store(store_uri or default_store_uri()), word)
    if base is not None:
        return AdapterPlace(uri, BasePlace(base))
    place = BasePlace(spec["base_model"], spec.get("base_model_revision")) if spec else None
    return AdapterPlace(uri, place)


def _found(store: Store, word: str) -> tuple[str, Mapping[str, Any] | None]:
    """Folder of the adapter, and the run's configuration where there is a run."""
    from raylora.store.runs import has_run, read_run
    from raylora.store.sweeps import has_sweep, read_sweep
    from raylora.sweep.result import sweep_result

    if "://" in word or word.startswith((".", "/", "~")):
        return word, None
    name, _, trial = word.partition("/")
    if not trial and has_run(store, name):
        record = read_run(store, name)
        return _uri_of(word, (record.result or {}).get("adapter_uri")), record.spec
    if has_sweep(store, name):
        swept = read_sweep(store, name)
        result = sweep_result(swept)
        if not trial:
            return _uri_of(word, result["best_adapter_uri"]), swept.spec.get("run", {})
        uris = {each["trial_id"]: each["adapter_uri"] for each in result["trials"]}
        if trial not in uris:
            raise InputError(f"{name} has no trial {trial!r}; it has {', '.join(list(uris)[:8])}")
        return _uri_of(word, uris[trial]), swept.spec.get("run", {})
    return word, None


def _uri_of(word: str, uri: str | None) -> str:
    if uri is None:
        raise InputError(f"{word} has no adapter (yet); run `raylora runs` to see how it stands")
    return uri
