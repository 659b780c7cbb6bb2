"""The course of a training as one picture: training loss with its running mean, and the validation losses.

In come losses by step, out comes a PNG. Called by the runtime at the end of a run; draws without a display.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Losses = Sequence[tuple[int, float]]
"""Pairs of an optimizer step and a loss in nats per token."""

TRAIN, VALIDATION, INK, GRID = "#2563eb", "#ea580c", "#1f2937", "#e5e7eb"


def draw_losses(train: Losses, validation: Losses, title: str, path: Path) -> None:
    """Draw the losses of a run.

    Args:
        train: Training losses; values that are not finite are left out.
        validation: Validation losses, the one before training at step 0.
        title: Shown above the picture.
        path: The PNG to write.
    """
    train, validation = _finite(train), _finite(validation)
    figure = Figure(figsize=(9.0, 5.0), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color=TRAIN, alpha=0.3, linewidth=1.0)
        axes.plot(steps, running_mean(losses), color=TRAIN, linewidth=2.2, label="training, running mean")
    if validation:
        steps, losses = zip(*validation, strict=True)
        # Dashed: between two evaluations nobody knows.
        axes.plot(steps, losses, color=VALIDATION, linestyle=(0, (4, 2)), linewidth=1.4, zorder=3)
        axes.scatter(steps, losses, color=VALIDATION, s=42, zorder=4, label=f"validation  {_fall(losses)}")
    dress(axes, title, "optimizer step", "loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if train or validation:
        axes.legend(loc="upper right", frameon=False, labelcolor=INK)
    figure.savefig(path, format="png")


def dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give axes the look of every picture here: titled at the left, a pale grid, no box.

    Args:
        axes: What has been drawn.
        title: Shown above it.
        x_label: Quantity to the right.
        y_label: Quantity upward.
    """
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=12)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.margins(x=0.02, y=0.1)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def running_mean(losses: Sequence[float], share: float = 0.1) -> list[float]:
    """Return the exponential mean of each loss and those before it, without a bias toward the first.

    Args:
        losses: Losses in order.
        share: Weight of the newest loss, above 0 and at most 1.
    """
    means, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = (1 - share) * total + share * loss, (1 - share) * weight + share
        means.append(total / weight)
    return means


def _fall(losses: Sequence[float]) -> str:
    """Return the first and the last loss, and the change between them in percent."""
    if len(losses) == 1 or losses[0] <= 0:
        return f"{losses[-1]:.3f}"
    change = f"{100 * (losses[-1] - losses[0]) / losses[0]:+.0f} %".replace("-", "\N{MINUS SIGN}")
    return f"{losses[0]:.3f} \N{RIGHTWARDS ARROW} {losses[-1]:.3f}  ({change})"


def _finite(losses: Losses) -> Losses:
    return [(step, loss) for step, loss in losses if math.isfinite(loss)]
