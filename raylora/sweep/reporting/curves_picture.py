"""Learning curves of all trials: validation loss where there is one, training loss, and how each trial ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from raylora.store.sweeps import CurvePoint, SweepRecord, TrialRecord
from raylora.sweep.reporting.canvas import FAILED, INK, MUTED, SURFACE, WINNER, Picture, colours, draw, tip, trial_tip
from raylora.sweep.reporting.summary import Summary
from raylora.tracking.loss_picture import dress, running_mean

ENDS = {
    "succeeded": ("o", True),
    "running": (">", True),
    "paused": (">", False),
    "stopped": ("o", False),
    "failed": ("X", True),
    "cancelled": ("X", False),
}
"""Marker of each ending, and whether it is filled."""

MAX_NAMED = 12
"""With more trials than this, only the best one's curve has its name beside it."""

Line = list[tuple[int, float]]


def draw_curves(record: SweepRecord, summary: Summary, folder: Path) -> Picture | None:
    """Draw the learning curves; None where no trial has a point.

    Args:
        record: The sweep.
        summary: What it found.
        folder: Where the PNG goes.
    """
    panels = [
        (title, lines)
        for title, read in (("validation loss", _validation), ("training loss, running mean", _training))
        if (lines := _lines(record.trials, read))
    ]
    if not panels:
        return None

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, lines) in zip(all_axes, panels, strict=True):
            _panel(axes, title, lines, record, summary)
        _key(figure, record.trials)

    return draw("curves", "Learning curves by trial", (11.0, 4.6), paint, folder)


def by_tokens(trials: Sequence[TrialRecord]) -> bool:
    """Return whether steps of different trials hold clearly different numbers of tokens, so that tokens compare."""
    per_step = [trial.tokens / trial.steps for trial in trials if trial.steps and trial.tokens]
    return bool(per_step) and max(per_step) > 1.1 * min(per_step)


def ceiling(lines: Sequence[Line]) -> float:
    """Return the loss above which a picture is cut, so that one that diverged does not flatten the others.

    Args:
        lines: Curves with a point or more each.
    """
    starts = sorted(line[0][1] for line in lines)
    highest = max(loss for line in lines for _, loss in line)
    return min(highest, 1.25 * starts[len(starts) // 2])


def _panel(axes: Axes, title: str, lines: dict[str, Line], record: SweepRecord, summary: Summary) -> None:
    shades, best = colours(record.trials, summary), summary.best_trial
    trials = {trial.trial_id: trial for trial in record.trials}
    tokens = by_tokens(record.trials)
    top = ceiling(list(lines.values()))
    names: dict[str, tuple[float, float]] = {}
    for trial_id, line in lines.items():
        trial, colour = trials[trial_id], shades[trial_id]
        front = colour == WINNER
        xs, losses = zip(*line, strict=True)
        if tokens:
            at = {point.step: point.tokens for point in trial.curve}
            xs = tuple(at[step] for step in xs)
        width, depth = (2.4, 4) if front else (1.3, 3 if colour != FAILED else 2)
        (drawn,) = axes.plot(xs, losses, color=colour, linewidth=width, zorder=depth)
        tip(drawn, trial_tip(trial, summary.aim.metric))
        marker, filled = ENDS[trial.status]
        end = min(losses[-1], top)
        axes.plot(
            xs[-1], end, marker, color=colour, markersize=6, zorder=depth + 2,
            markerfacecolor=colour if filled else SURFACE, markeredgewidth=1.3, clip_on=False,
        )  # fmt: skip
        if len(lines) <= MAX_NAMED or trial == best:
            names[trial_id] = (xs[-1], end)
    dress(axes, title, "tokens trained on" if tokens else "optimizer step", "nats per token")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if tokens:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low = min(loss for line in lines.values() for _, loss in line)
    axes.set_ylim(low - 0.05 * (top - low or 1), top + 0.05 * (top - low or 1))
    _write_names(axes, names, shades)


def _write_names(axes: Axes, names: dict[str, tuple[float, float]], shades: dict[str, str]) -> None:
    """Put names beside the ends of curves, apart from each other where curves end together."""
    low, high = axes.get_ylim()
    gap = (high - low) / 22
    last: dict[float, float] = {}
    for trial_id, (x, y) in sorted(names.items(), key=lambda item: item[1][1]):
        last[x] = y = max(y, last.get(x, -math.inf) + gap)
        colour = shades[trial_id] if shades[trial_id] in (WINNER, FAILED) else INK
        axes.annotate(
            trial_id, (x, y), xytext=(8, 0), textcoords="offset points", va="center", color=colour, fontsize=8.5,
            fontweight="bold" if colour == WINNER else "normal", annotation_clip=False,
        )  # fmt: skip


def _key(figure: Figure, trials: Sequence[TrialRecord]) -> None:
    """Say what the ends mean, for those that occur."""
    ends = {trial.status for trial in trials if trial.curve}
    marks = [
        Line2D([], [], linestyle="", marker=marker, color=MUTED, markerfacecolor=MUTED if filled else SURFACE)
        for status, (marker, filled) in ENDS.items()
        if status in ends
    ]
    texts = ["stopped early" if status == "stopped" else status for status in ENDS if status in ends]
    figure.legend(marks, texts, loc="outside lower left", ncols=len(marks), frameon=False, labelcolor=INK)


def _lines(trials: Sequence[TrialRecord], read: Callable[[Sequence[CurvePoint]], Line]) -> dict[str, Line]:
    found = ((trial.trial_id, read(trial.curve)) for trial in trials)
    return {trial_id: line for trial_id, line in found if line}


def _validation(curve: Sequence[CurvePoint]) -> Line:
    return [(point.step, point.eval_loss) for point in curve if point.eval_loss is not None]


def _training(curve: Sequence[CurvePoint]) -> Line:
    points = [(point.step, point.train_loss) for point in curve if point.train_loss is not None]
    means = running_mean([loss for _, loss in points], share=0.3)
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]
