"""Commands that only look at a configuration: ``estimate`` and ``inspect``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from raylora.cli.config import read
from raylora.cli.estimate_table import print_estimate
from raylora.cli.output import Json, Overrides, out, print_json
from raylora.errors import InputError


def inspect(
    path: Annotated[Path, typer.Argument(help="Configuration file.")],
    set_: Overrides = None,
    json_: Json = False,
) -> None:
    """Show the linear layers of the base and which of them the targets match."""
    spec = read(path, set_).spec
    from raylora.runtime import look

    seen = look.inspect(spec)
    if json_:
        seen.check()
        print_json({"modules": [vars(row) for row in seen.rows], "trainable_parameters": seen.trainable_parameters})
        return
    of = f"at r={spec.lora_r}" if spec.peft is None else f"of {spec.adapter_title}"
    words = ("trained", "trainable") if spec.trains_base else ("adapted", f"trainable {of}")
    table = _table("layers", "out x in", "number", *words)
    for row in seen.rows:
        adapted = f"[green]{row.num_adapted}[/]" if row.num_adapted else "0"
        shape = f"{row.shape[0]} x {row.shape[1]}"
        table.add_row(row.pattern, shape, str(row.num_modules), adapted, f"{row.trainable_parameters:,}")
    out.print(table)
    out.print(f"{seen.trainable_parameters:,} trainable parameters")
    seen.check()  # after the table: a wrong pattern still shows what there is


def estimate(
    path: Annotated[Path, typer.Argument(help="Configuration file.")],
    set_: Overrides = None,
    device_gb: Annotated[
        float | None, typer.Option(help="Memory of one device in GB (10^9 bytes): does it fit?")
    ] = None,
    json_: Json = False,
) -> None:
    """Predict trainable parameters and bytes per rank from config.json alone, without weights."""
    if device_gb is not None and not 0 < device_gb < math.inf:  # NaN is neither
        raise InputError(f"--device-gb: got {device_gb:g}; allowed: above 0 and finite, such as 80")
    spec = read(path, set_).spec
    from raylora.runtime import look

    predicted = look.estimate(spec)
    fits = predicted.fits(int(device_gb * 1e9)) if device_gb is not None else None
    if json_:
        print_json(predicted.to_json() | ({} if fits is None else {"fits": fits, "device_gb": device_gb}))
        return
    print_estimate(predicted)
    if fits is not None:
        out.print(f"[green]fits[/] {device_gb:g} GB" if fits else f"[red]does not fit[/] {device_gb:g} GB")


def _table(first: str, *others: str) -> Table:
    """A table whose first column, which people copy from, is never cut; the others break into lines."""
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, overflow="fold")
    return table
