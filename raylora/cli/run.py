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


def train(
    path: Annotated[Path, typer.Argument(help="Configuration file.")],
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Fine-tune: workers on Ray, the adapter in the store, the run in MLflow."""
    spec = read(path, set_).spec
    from raylora.runtime import launch

    _follow(lambda listen: launch.train(spec, listen), json_)


def resume(
    run_id: Annotated[str, typer.Argument(help="Name of the run, as `raylora runs` lists it.")],
    store: Annotated[str | None, typer.Option(help="Store of the run; raylora's home where absent.")] = None,
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Go on with a run from its last whole checkpoint, here or (`--set distributed.…`, `--set ray.…`) elsewhere."""
    from raylora.runtime import launch

    _follow(lambda listen: launch.resume(run_id, store, listen, set_ or ()), json_)


def _follow(start: Callable[[Callable[[Any], None]], dict[str, Any]], json_: bool) -> None:
    with progress_display() as display:
        result = start(display.show)
    if json_:
        print_json(result)
    else:
        print_summary(result)
