"""Commands that train: ``train`` and ``resume``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raylora.cli.config import read
from raylora.cli.output import Json, Overrides, print_json
from raylora.cli.progress import progress_display
from raylora.cli.summary import print_summary
from raylora.errors import InputError
from raylora.runtime.first_look import first_look
from raylora.store.before_start import before_start
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import has_run, list_runs
from raylora.store.sweeps import has_sweep, list_sweeps


def train(
    path: Annotated[Path, typer.Argument(help="Configuration file.")],
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Fine-tune: workers on Ray, the adapter in the store, the run in MLflow."""
    spec = read(path, set_).spec
    first_look(spec)
    from raylora.runtime import launch

    _follow(lambda listen: launch.train(spec, listen), json_)


def resume(
    name: Annotated[str, typer.Argument(help="Name of the run or sweep, as `raylora runs` lists it.")],
    store: Annotated[str | None, typer.Option(help="Store that it is in; raylora's home where absent.")] = None,
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Go on with a run from its last whole checkpoint, here or (`--set distributed.…`, `--set ray.…`) elsewhere.

    Also with a sweep: trials that have ended are kept.
    """
    if _is_sweep(name, store):
        from raylora.cli.sweep import follow_sweep
        from raylora.sweep.launch import resume_sweep

        if set_:
            raise InputError("--set: a sweep goes on as it was asked for; leave it out, or start a new sweep")
        follow_sweep(lambda listen: resume_sweep(name, store, listen), json_)
        return
    from raylora.runtime import launch

    _follow(lambda listen: launch.resume(name, store, listen, set_ or ()), json_)


def _is_sweep(name: str, store_uri: str | None) -> bool:
    """Return whether a name is a sweep's; otherwise it is a run's.

    Raises:
        InputError: It is neither's.
    """
    with before_start():
        store = open_store(store_uri or default_store_uri())
        if (is_sweep := has_sweep(store, name)) or has_run(store, name):
            return is_sweep
        names = [*(run.run_id for run in list_runs(store)), *(sweep.sweep_id for sweep in list_sweeps(store))]
    there = ", ".join(sorted(names, reverse=True)[:3]) or "nothing"
    raise InputError(
        f"'{name}' is no run and no sweep of {store.uri}; there: {there}; run `raylora runs`, or give --store where it "
        "lies elsewhere"
    )


def _follow(start: Callable[[Callable[[Any], None]], dict[str, Any]], json_: bool) -> None:
    with progress_display() as display:
        result = start(display.show)
    if json_:
        print_json(result)
    else:
        print_summary(result)
