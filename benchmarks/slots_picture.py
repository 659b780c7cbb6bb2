"""Speed and memory of a pack over its slots, as one picture beside docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raylora.sweep.reporting.canvas import INK, MUTED, RAMP, WINNER, draw
from raylora.tracking.loss_picture import GRID

NAME, SIZE = "slots", (9.0, 3.6)


def draw_slots(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``slots.png``.

    Args:
        results: Of the benchmark `slots`.
        folder: Where it goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw(NAME, "Speed and memory over the slots of a pack", SIZE, partial(_paint, results), folder)


def _paint(results: Mapping[str, Any], figure: Figure) -> None:
    speed, memory = figure.subplots(1, 2)
    _paint_speed(speed, results)
    _paint_memory(memory, results)
    counts = [int(count) for count in results["speed"]]
    for axes in (speed, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("slots")
        axes.set_ylim(bottom=0)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _paint_speed(axes: Axes, results: Mapping[str, Any]) -> None:
    counts = [int(count) for count in results["speed"]]
    rates = [found["tokens_per_s"] for found in results["speed"].values()]
    axes.fill_between(
        counts, [r["lowest"] for r in rates], [r["highest"] for r in rates], color=RAMP[-1], linewidth=0, alpha=0.6
    )
    axes.plot(counts, [rate["median"] for rate in rates], color=RAMP[0], marker="o", markersize=4)
    axes.axhline(rates[0]["median"], color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_title(f"tokens/s, {results['row_tokens']} tokens a slot", color=INK, loc="left", fontsize=10)


def _paint_memory(axes: Axes, results: Mapping[str, Any]) -> None:
    counts = [int(count) for count in results["memory"]]
    memory, predicted = results["memory"].values(), results["predicted"].values()
    megabyte = 1e6
    axes.plot(
        counts,
        [told["peak_bytes"] / megabyte for told in predicted],
        color=MUTED,
        linestyle="--",
        linewidth=1.2,
        label="peak, predicted",
    )
    axes.plot(
        counts,
        [(told["base_bytes"] + told["live_peak_bytes"]) / megabyte for told in memory],
        color=RAMP[0],
        marker="o",
        markersize=4,
        linewidth=0,
        label="peak, tensors counted",
    )
    axes.plot(
        counts,
        [told["resident_peak_bytes"] / megabyte for told in memory],
        color=WINNER,
        marker="x",
        markersize=5,
        linewidth=0,
        label="peak, resident memory",
    )
    axes.plot(
        counts, [told["base_bytes"] / megabyte for told in memory], color=INK, linewidth=1.2, label="base, held once"
    )
    axes.set_title("MB above the start", color=INK, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
