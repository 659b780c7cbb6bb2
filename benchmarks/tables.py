"""How figures look in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(values: Mapping[str, float], form: str = "{:.2f}") -> str:
    """A median with its range."""
    middle, lowest, highest = (form.format(values[name]) for name in ("median", "lowest", "highest"))
    return f"{middle} ({lowest} to {highest})"


def giga(rates: Mapping[str, float]) -> str:
    """Operations a second in GFLOP/s."""
    return spread({name: rate / 1e9 for name, rate in rates.items()}, "{:.1f}")


def percent(parts: Mapping[str, float]) -> str:
    """A part of a whole."""
    return spread(parts, "{:.0%}")


def megabytes(*sizes: float) -> str:
    """Bytes in MB (10^6)."""
    return ", ".join(f"{size / 1e6:.1f}" for size in sizes)


def products(rate: Mapping[str, Any]) -> str:
    """What a step reaches of the machine's matrix products, by kernel and shapes."""
    words = {"model_shapes": "products of the model's shapes", "large_squares": "large square products"}
    rows = [
        (f"`{kernel}`, {words[shapes]}", giga(found["flops_per_s"]), percent(found["step_reaches"]))
        for kernel, by_shapes in rate["kernels"].items()
        for shapes, found in by_shapes.items()
    ]
    return table(("", "GFLOP/s", "the step reaches"), [("the step", giga(rate["step_flops_per_s"]), ""), *rows])
