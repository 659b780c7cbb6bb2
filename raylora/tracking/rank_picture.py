"""Where AdaLoRA left its ranks as one picture: a row for each layer of the model, a column for each kind of module.

In come ranks by module, out comes a PNG. Called by the runtime at the end of a run; draws without a display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raylora.tracking.loss_picture import INK, dress

SHADES = "Blues"
MOST_WRITTEN = 400
"""Cells up to which each has its number written in it."""


def draw_ranks(ranks: Mapping[str, int], title: str, path: Path) -> None:
    """Draw the ranks that are left.

    Args:
        ranks: By dotted name of the module; at least one.
        title: Shown above the picture.
        path: The PNG to write.
    """
    places = {name: _place(name) for name in ranks}
    layers = sorted({layer for layer, _ in places.values()})
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    grid = [[math.nan] * len(kinds) for _ in layers]
    for name, (layer, kind) in places.items():
        grid[layers.index(layer)][kinds.index(kind)] = ranks[name]
    # In inches; above 400 a side matplotlib draws nothing.
    size = (min(3.0 + 0.8 * len(kinds), 400.0), min(2.5 + 0.25 * len(layers), 400.0))
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    most = max(1, *ranks.values())
    image = axes.imshow(grid, cmap=SHADES, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    dress(axes, title, "", "layer")
    axes.grid(False)
    axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    if len(layers) * len(kinds) <= MOST_WRITTEN:
        for name, (layer, kind) in places.items():
            shade = "white" if ranks[name] > 0.6 * most else INK
            place = (kinds.index(kind), layers.index(layer))
            axes.text(*place, str(ranks[name]), ha="center", va="center", color=shade, fontsize=8)
    figure.colorbar(image, ax=axes, label="ranks left", ticks=MaxNLocator(integer=True))
    figure.savefig(path, format="png")


def _place(name: str) -> tuple[int, str]:
    """The number of a module's layer, and its name within the layer."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return (0, name) if at is None else (int(parts[at]), ".".join(parts[at + 1 :]))
