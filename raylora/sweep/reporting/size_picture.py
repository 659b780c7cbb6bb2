"""The metric against the size of the adapter, and the configurations that none as small beats."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from raylora.store.sweeps import SweepRecord
from raylora.sweep.reporting.canvas import INK, MUTED, SURFACE, WINNER, Picture, colours, draw, tip, trial_tip
from raylora.sweep.reporting.scales import is_log
from raylora.sweep.reporting.summary import Configuration, Summary
from raylora.tracking.loss_picture import dress


def draw_sizes(record: SweepRecord, summary: Summary, folder: Path) -> Picture | None:
    """Draw metric against trainable parameters; None where fewer than two sizes occur.

    Args:
        record: The sweep.
        summary: What it found.
        folder: Where the PNG goes.
    """
    sized = [(size, each) for each in summary.ranking if (size := each.best.trainable_parameters) is not None]
    if len({size for size, _ in sized}) < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        shades = colours(record.trials, summary)
        for size, each in sized:
            colour = shades[each.best.trial_id]
            if each.spread:
                axes.errorbar(size, each.mean, each.spread, color=colour, linewidth=1.2, capsize=3, zorder=3)
            (drawn,) = axes.plot(
                size, each.mean, "o", color=colour, markersize=9 if colour == WINNER else 7, zorder=4,
                markerfacecolor=SURFACE if each.best.status == "stopped" else colour, markeredgewidth=1.4,
            )  # fmt: skip
            tip(drawn, trial_tip(each.best, summary.aim.metric))
        sizes = [size for size, _ in sized]
        front = [(_size(each), each.mean) for each in summary.front]
        front.append((max(sizes), front[-1][1]))
        xs, means = zip(*front, strict=True)
        axes.plot(xs, means, color=MUTED, drawstyle="steps-post", linewidth=1.4, linestyle=(0, (4, 2)), zorder=2,
                  label="best for its size")  # fmt: skip
        dress(axes, "", "trainable parameters", summary.aim.metric)
        if is_log(sizes):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
        axes.margins(x=0.06, y=0.14)
        for each in summary.front:
            axes.annotate(
                each.best.trial_id, (_size(each), each.mean), xytext=(0, -15 if summary.aim.mode == "min" else 9),
                textcoords="offset points", ha="center", fontsize=8.5, color=INK,
            )  # fmt: skip
        axes.legend(loc="best", frameon=False, labelcolor=INK)

    return draw("sizes", "Result against size of the adapter", (11.0, 4.4), paint, folder)


def _size(configuration: Configuration) -> int:
    size = configuration.best.trainable_parameters
    assert size is not None
    return size
