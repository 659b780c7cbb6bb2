"""Every trial as one line through the values of its knobs to its metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.asked import drawn_by_ratio
from raylora.sweep.reporting.canvas import INK, MUTED, SURFACE, WINNER, Picture, colours, draw, tip, trial_tip
from raylora.sweep.reporting.effects import varied_knobs
from raylora.sweep.reporting.scales import Scale, scale_of
from raylora.sweep.reporting.summary import Summary, counts
from raylora.sweep.reporting.words import knob_labels

ABSENT = -0.12
"""Where a line passes the axis of a knob that its trial does not have."""


def draw_parallel(record: SweepRecord, summary: Summary, folder: Path) -> Picture | None:
    """Draw the parallel coordinates; None where fewer than two trials have a result or nothing was varied.

    Args:
        record: The sweep.
        summary: What it found.
        folder: Where the PNG goes.
    """
    trials = [trial for trial in record.trials if counts(trial)]
    knobs = varied_knobs(trials)
    if len(trials) < 2 or not knobs:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        columns = [[trial.config.get(knob, _NONE) for trial in trials] for knob in knobs]
        columns.append([trial.metric for trial in trials])
        by_ratio = drawn_by_ratio(record)
        scales = [
            scale_of([value for value in column if value is not _NONE], name in by_ratio)
            for name, column in zip([*knobs, summary.aim.metric], columns, strict=True)
        ]
        shades = colours(record.trials, summary)
        for row, trial in enumerate(trials):
            places = [_place(scale, column[row]) for scale, column in zip(scales, columns, strict=True)]
            _line(axes, trial, places, shades[trial.trial_id], summary)
        short = knob_labels(knobs)
        _dress(axes, [*(short[knob] for knob in knobs), summary.aim.metric], scales, columns)

    return draw("parallel", "From knobs to result", (max(11.0, 1.6 * (len(knobs) + 1)), 4.6), paint, folder)


_NONE = object()


def _place(scale: Scale, value: Any) -> float:
    return ABSENT if value is _NONE else scale.place(value)


def _line(axes: Axes, trial: TrialRecord, places: Sequence[float], colour: str, summary: Summary) -> None:
    front = colour == WINNER
    (drawn,) = axes.plot(
        range(len(places)), places, color=colour, linewidth=2.6 if front else 1.2, alpha=1.0 if front else 0.75,
        zorder=4 if front else 3, linestyle=(0, (3, 2)) if trial.status == "stopped" else "-",
        solid_joinstyle="round",
    )  # fmt: skip
    tip(drawn, trial_tip(trial, summary.aim.metric))


def _dress(axes: Axes, names: Sequence[str], scales: Sequence[Scale], columns: Sequence[Sequence[Any]]) -> None:
    lowest = 0.0
    box = {"facecolor": SURFACE, "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
    for x, (name, scale, column) in enumerate(zip(names, scales, columns, strict=True)):
        ticks = list(scale.ticks)
        if any(value is _NONE for value in column):
            ticks, lowest = [(ABSENT, "not set"), *ticks], ABSENT
        axes.plot([x, x], [0, 1], color=MUTED, linewidth=1.2, zorder=5)
        for y, text in ticks:
            axes.plot(x, y, "_", color=MUTED, markersize=7, zorder=5)
            axes.annotate(
                text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5,
                bbox=box, zorder=6, annotation_clip=False,
            )  # fmt: skip
        last = x == len(names) - 1
        axes.annotate(
            name, (x, 1), xytext=(0, 14), textcoords="offset points", ha="center", color=INK, fontsize=10,
            fontweight="bold" if last else "normal", annotation_clip=False,
        )  # fmt: skip
    span = len(names) - 1
    axes.set_xlim(-0.06 * span, 1.06 * span)
    axes.set_ylim(lowest - 0.04, 1.14)
    axes.set_axis_off()
