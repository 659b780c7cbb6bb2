"""The command ``merge``: an adapter and its base as one model, for whatever loads models and no adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from raylora.cli.adapter import AdapterWord, BaseOption, StoreOption, find_adapter
from raylora.cli.output import Json, err, out, print_json, say
from raylora.errors import InputError, together

if TYPE_CHECKING:
    from raylora.adapters.base import BasePlace
    from raylora.adapters.delta import Layers
    from raylora.adapters.merging.check import Agreement
    from raylora.adapters.merging.merge import Merged
    from raylora.adapters.merging.rounding import Spread
    from raylora.adapters.stored import StoredAdapter


class Dtype(StrEnum):
    """Of the written weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Format(StrEnum):
    """To whose values weights are rounded."""

    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"


def merge(
    adapter: AdapterWord,
    folder: Annotated[Path, typer.Option("--out", help="New folder for the merged model.")],
    base: BaseOption = None,
    store: StoreOption = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Dtype of the written weights; auto keeps that of each tensor of the base.")
    ] = Dtype.AUTO,
    requantize: Annotated[
        Format | None,
        typer.Option(
            help="Round the linear layers to values of this format. The files stay as large as without it: they hold "
            "rounded values in the written dtype, not packed. Loaded in the format and that dtype, without double "
            "quantization (bnb_4bit_use_double_quant: false), they come back as they are; with it they are rounded "
            "again."
        ),
    ] = None,
    max_shard_gb: Annotated[float, typer.Option(help="Largest weight file in GB (10^9 bytes).")] = 5.0,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Compare logits with base and adapter, a block of either in memory at a time."
        ),
    ] = True,
    json_: Json = False,
) -> None:
    """Merge an adapter into its full-precision base, LoftQ's as quantized: W + scale B A, or as PEFT merges it."""
    from raylora.adapters.base import open_base
    from raylora.adapters.merging.content import content_of
    from raylora.adapters.merging.merge import write_merged
    from raylora.adapters.merging.plan import MergeSettings, plan_merge
    from raylora.adapters.new_folder import new_folder, writing
    from raylora.store.before_start import before_start
    from raylora.store.home import cache_dir

    place, known, stored, found, template = _inputs(adapter, folder, base, store, max_shard_gb)
    form = requantize.value if requantize else None
    settings = MergeSettings(dtype.value, int(max_shard_gb * 1e9), form, template)
    with before_start():
        opened = open_base(stored, known, cache_dir())
    content = content_of(stored, found, opened)
    plan = plan_merge(stored, content.changes, opened, settings)
    wanted = content.wanted(plan.rounding) if check else None
    agreement: Agreement | None = None
    with new_folder(place) as fresh:
        with writing(place), _bar(len(plan.sizes)) as report:
            merged = write_merged(plan, fresh, report)
        if wanted is not None:
            agreement = wanted.compare(fresh)
            agreement.check(plan.tolerance)
    told: dict[str, Any] = {
        "path": str(place),
        "adapter": stored.uri,
        "base": opened.name,
        "dtype": plan.dtype,
        "files": merged.files,
        "bytes": merged.num_bytes,
        "num_layers": len(content.layers),
        "quantization": stored.about.get("quantization"),
        "merged_into": stored.about.get("quantization") if plan.is_into_rounded else "none",
        "chat_template": "base" if template is None else "run",
        "rounding_error": _fields(merged.rounding_error),
        "requantized": settings.requantize,
        "requantize_error": _fields(merged.requantize_error),
        "requantize_over_update": _fields(merged.requantize_over_update),
        "max_logit_difference": agreement.max_difference if agreement else None,
        "argmax_agrees": agreement.argmax_agrees if agreement else None,
    }
    if json_:
        print_json(told)
        return
    _print(told, merged, agreement)


class _Inputs(NamedTuple):
    """What is merged.

    Args:
        place: Of the new folder.
        base: Of the base, as far as it is known beside the adapter's own word for it.
        adapter: As it is stored.
        layers: What it does to each; ``None`` where PEFT's own modules do that.
        template: The run's own chat template.
    """

    place: Path
    base: BasePlace | None
    adapter: StoredAdapter
    layers: Layers | None
    template: str | None


def _inputs(word: str, folder: Path, base: str | None, store: str | None, max_shard_gb: float) -> _Inputs:
    """Find and read what is merged, before its base is fetched.

    Raises:
        InputError: All that is wrong at once.
    """
    from raylora.adapters.base import config_of_base
    from raylora.adapters.layers import deltas, needs_peft
    from raylora.adapters.new_folder import free_place
    from raylora.adapters.stored import read_adapter
    from raylora.store.before_start import Checks

    checks = Checks()
    if not 1e-9 <= max_shard_gb < math.inf:  # NaN is neither
        wrong = f"--max-shard-gb: got {max_shard_gb:g}; allowed: above 0 and finite, such as 5"
        checks.errors.append(InputError(wrong))
    place = checks.of(partial(free_place, folder))
    named = checks.of(partial(find_adapter, word, store, base))
    template, stored, found = None, None, None
    if named is not None:
        template = checks.of(named.read_template)
        stored = checks.of(partial(read_adapter, named.uri))
    if named is not None and stored is not None:
        checks.of(partial(config_of_base, stored, named.base))
        if needs_peft(stored):
            from raylora.adapters.peft_seat import config_of  # seconds of import that only these adapters need

            checks.of(partial(config_of, stored))
        else:
            found = checks.of(partial(deltas, stored, named.base))
    if checks.errors or place is None or named is None or stored is None:
        raise together(checks.errors)
    return _Inputs(place, named.base, stored, found, template)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """What moves a bar over all tensors, where somebody watches."""
    if not err.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        task = bars.add_task("merging tensors", total=total)
        yield lambda: bars.advance(task)


def _fields(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)


def _print(told: dict[str, Any], merged: Merged, agreement: Agreement | None) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "base": told["base"],
        "adapted layers": str(told["num_layers"]),
        "written": f"{told['dtype']}, {merged.num_bytes / 1e6:,.1f} MB in {len(merged.files)} files",
        "trained on": told["quantization"] or "not known: the adapter has no lineage",
    }
    if told["merged_into"] != "none":
        rows["merged into"] = (
            f"the base as {told['merged_into']} rounds it, since the adapter started as LoftQ over that"
        )
    if told["chat_template"] == "run":
        rows["chat template"] = "the run's own"
    if merged.rounding_error:
        rows["its rounding error"] = f"{_spread(merged.rounding_error)} of the full-precision weight merged into"
    if merged.requantize_error:
        rows[f"rounded to {told['requantized']}"] = (
            f"{_spread(merged.requantize_error)} of the merged weight, in full size"
        )
    if merged.requantize_over_update:
        rows["beside the update"] = f"{_spread(merged.requantize_over_update)} of its norm rounded off"
    if agreement:
        same = "the same" if agreement.argmax_agrees else "not everywhere the same"
        rows["logits"] = (
            f"differ by at most {agreement.max_difference:.3g} (largest {agreement.largest_logit:.3g}) from base and "
            f"adapter; likeliest token {same}"
        )
    for name, text in rows.items():
        table.add_row(name, escape(text))
    out.print(table)
    say(f"merged model: {told['path']}")


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.2%} on average, {spread.max:.2%} at most,"
