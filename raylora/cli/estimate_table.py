"""A predicted run as a table: bytes by part, one column a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from raylora.cli.output import out

if TYPE_CHECKING:
    from raylora.train.prediction.estimate import Estimate


def print_estimate(predicted: Estimate) -> None:
    """Print the parts of an estimate.

    Args:
        predicted: What ``raylora.train.prediction.estimate.estimate`` gave.
    """
    shown = predicted.to_json()
    out.print(
        f"{shown['trainable_parameters']:,} trainable of {shown['base_parameters']:,} base parameters "
        f"({shown['trainable_parameters'] / shown['base_parameters']:.4%})"
    )
    ranks = shown["ranks"]
    table = Table("part", *(f"rank {index}" for index in range(len(ranks))), title="bytes", title_justify="left")
    for part in ranks[0]:
        table.add_row(part.replace("_bytes", "").replace("_", " "), *(f"{rank[part] / 1e6:,.1f} MB" for rank in ranks))
    out.print(table)
    out.print(
        "The parts do not add up to the peak: quant state is within base, host is elsewhere, and activations, logits "
        "and gathered are each the most at some moment, not at the same one. Not in it are the process itself, about "
        "0.6 GB on a CPU, and blocks that a CPU's allocator keeps (docs/estimate.md).",
        style="dim",
    )
