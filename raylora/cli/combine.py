"""The command ``combine``: several adapters of one base become one, each tried on the validation rows of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from raylora.adapters.combining.recipe import METHODS, Recipe, read_weights
from raylora.cli.adapter import AdapterPlace, BaseOption, StoreOption, find_adapter
from raylora.cli.output import Json, err, out, print_json, say
from raylora.errors import DataError, InputError, ModelError, together

if TYPE_CHECKING:
    from raylora.adapters.base import BasePlace
    from raylora.adapters.combining.evaluation import Listener
    from raylora.adapters.delta import Layers
    from raylora.adapters.stored import StoredAdapter
    from raylora.spec.run import RunSpec

RESULT, BASE = "combined", "base"
"""Names of what is evaluated beside the adapters that were given."""

SUPERVISED = "sft"
"""Word for what a run minimises that has no `rl`."""


def combine(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Two or more of one base: each a run, a sweep (its best trial), SWEEP/TRIAL, or an adapter's folder.",
        ),
    ],
    target: Annotated[str, typer.Option("--out", help="New or empty folder for the result, local or s3://.")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS[:-1])} or {METHODS[-1]}, as PEFT combines.")],
    weights: Annotated[str | None, typer.Option(help="A number for each adapter, such as 1,0.5; 1 each.")] = None,
    density: Annotated[
        float | None, typer.Option(help="ties, dare: part of the values that is kept, above 0 up to 1; 0.5.")
    ] = None,
    max_rank: Annotated[
        int | None, typer.Option(help="svd: rank of the result; the largest of the adapters' where absent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="dare: decides which values are dropped.")] = 0,
    evaluate: Annotated[
        bool | None,
        typer.Option(
            "--evaluate/--no-evaluate",
            help="Losses of the result, of each adapter and of the base on the validation rows of each run or sweep "
            "among the adapters, by what it minimised; done where there is one.",
        ),
    ] = None,
    store: StoreOption = None,
    base: BaseOption = None,
    json_: Json = False,
) -> None:
    """Make one adapter of several of one base."""
    from raylora.adapters.combining.combine import combine as combine_layers
    from raylora.adapters.combining.fit import fitting_layers
    from raylora.adapters.combining.publish import as_adapter, check_free, lineage_of, publish_at
    from raylora.adapters.stored import read_adapter
    from raylora.store.before_start import Checks, before_start

    checks = Checks()
    numbers = checks.of(lambda: read_weights(weights, len(adapters)))
    recipe = Recipe(method, numbers or (1.0,) * len(adapters), density, max_rank, seed)
    checks.errors += recipe.problems(len(adapters))
    checks.of(lambda: check_free(target))
    found = [(word, checks.of(partial(find_adapter, word, store, base))) for word in adapters]
    places = [(word, place) for word, place in found if place is not None]
    parents = [parent for _, place in places if (parent := checks.of(partial(read_adapter, place.uri))) is not None]
    runs = checks.of(lambda: _runs(places, evaluate))
    known = next((place.base for _, place in places if place.base is not None), None)
    is_read = len(parents) == len(adapters)
    layers = checks.of(partial(fitting_layers, parents, method, known)) if is_read else None
    if checks.errors or layers is None:
        raise together(checks.errors)
    with before_start():
        _check_base(parents, known, base is not None)
    result = combine_layers(layers, recipe)
    adapter = as_adapter(result, parents)
    losses, objectives = None, None
    if runs:
        objectives = {word: spec.rl or SUPERVISED for word, spec in runs.items()}
        every: list[tuple[str, Layers]] = [(RESULT, result), *zip(adapters, layers, strict=True), (BASE, {})]
        by_word = dict(zip(adapters, parents, strict=True))
        losses = _evaluated(by_word, known, runs, every)
    folders = {word: parent.digest for (word, place), parent in zip(places, parents, strict=True) if place.uri == word}
    path = publish_at(target, adapter, lineage_of(parents, recipe, _without_places(losses, folders)))
    unknown = [word for word in adapters if word not in runs] if runs else []
    told = {"method": method, "r": adapter.config["r"], "num_layers": len(result), "weights": list(recipe.weights)}
    if json_:
        print_json({"path": path, **told, "evaluation": losses, "objectives": objectives, "rows_not_known": unknown})
        return
    say("{} adapters combined by {method}: {num_layers} layers, r={r}".format(len(parents), **told))
    if losses is not None and objectives is not None:
        _print_losses(losses, objectives)
    if unknown:
        say(f"validation rows not known, so not evaluated on: {', '.join(unknown)}", err)
    say(f"adapter: {path}")


def _check_base(parents: Sequence[StoredAdapter], place: BasePlace | None, is_said: bool) -> None:
    """Refuse a base that is not theirs: one that was named now, or that of adapters whose matrices follow from it."""
    from raylora.adapters.base import check_place
    from raylora.adapters.layers import reads_base
    from raylora.store.home import cache_dir

    for parent in parents:
        if is_said or reads_base(parent):
            check_place(parent, place, cache_dir())


def _without_places(
    losses: Sequence[Mapping[str, Any]] | None, folders: Mapping[str, str | None]
) -> list[dict[str, Any]] | None:
    """Losses for a manifest, which others read: what was named by its folder is called by its tensors' digest there."""
    if losses is None:
        return None
    return [{**each, "adapter": folders.get(each["adapter"], each["adapter"])} for each in losses]


def _runs(places: Sequence[tuple[str, AdapterPlace]], asked: bool | None) -> dict[str, RunSpec] | None:
    """Configurations by the words for the adapters that have one; ``None`` where there is, or can be, no evaluation.

    Raises:
        InputError: It was asked for and cannot be.
    """
    if asked is False:
        return None
    specs = {word: _spec(place) for word, place in places}
    runs = {word: spec for word, spec in specs.items() if spec is not None}
    if asked and specs and not runs:
        raise InputError(
            f"--evaluate: the validation rows of {', '.join(specs)} are not known. Allowed: runs, and sweeps that this "
            "version of raylora reads, one at least. Leave --evaluate out"
        )
    return runs or None


def _spec(place: AdapterPlace) -> RunSpec | None:
    from raylora.spec.run import RunSpec

    try:
        return None if place.spec is None else RunSpec.model_validate(place.spec)
    except (InputError, ValueError):  # recorded by a version with other fields
        return None


def _evaluated(
    parents: Mapping[str, StoredAdapter],
    place: BasePlace | None,
    runs: Mapping[str, RunSpec],
    every: Sequence[tuple[str, Layers]],
) -> list[dict[str, Any]]:
    """Losses as JSON, on the one base of the adapters, held as it was for all of them."""
    from raylora.adapters.combining.evaluation import evaluate_adapters
    from raylora.adapters.one_base import open_one_base
    from raylora.adapters.trained_over import holding_of
    from raylora.store.home import cache_dir

    try:
        with _progress() as listen:
            holding = holding_of(parents)
            opened = open_one_base(parents, place, cache_dir())
            return [asdict(each) for each in evaluate_adapters(opened, cache_dir(), runs, every, holding, listen)]
    except (DataError, ModelError) as error:
        raise type(error)(f"{error}\nThe adapters were to be evaluated; --no-evaluate combines without") from error


@contextmanager
def _progress() -> Iterator[Listener]:
    if not err.is_terminal:
        yield lambda done, total: None
        return
    text = TextColumn("[bold]{task.description}")
    with Progress(SpinnerColumn(), text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err) as bars:
        task = bars.add_task("evaluating", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print_losses(losses: Sequence[Mapping[str, Any]], objectives: Mapping[str, str]) -> None:
    """A row an adapter, a column for each run's validation rows; it says what their losses are where they differ."""
    table = Table(title="mean loss on the validation rows of", title_justify="left")
    table.add_column("adapter", no_wrap=True)
    names, are_several = list(losses[0]["losses"]), len(set(objectives.values())) > 1
    for name in names:
        title = f"{name} ({objectives[name]})" if are_several else name
        table.add_column(escape(title), no_wrap=True, justify="right")
    for each in losses:
        found = (each["losses"][name] for name in names)
        cells = ["no validation rows" if loss is None else f"{loss:.4f}" for loss in found]
        table.add_row(escape(each["adapter"]), *cells)
    out.print(table, crop=False)
