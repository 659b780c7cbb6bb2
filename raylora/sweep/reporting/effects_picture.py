"""Each knob against the metric: a panel a knob, a dot a trial, a bar or a line for the means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.asked import drawn_by_ratio
from raylora.sweep.reporting.canvas import EDGE_IN, INK, MUTED, SURFACE, Picture, colours, draw, tip, trial_tip
from raylora.sweep.reporting.effects import KnobEffect, key_of
from raylora.sweep.reporting.scales import is_log, log_ticks, scale_of, tick_text
from raylora.sweep.reporting.summary import Summary, counts, metric_of
from raylora.sweep.reporting.words import knob_labels, labels
from raylora.tracking.loss_picture import dress

COLUMNS = 3
PANEL_CHARACTERS = 36
MARGIN = 0.06
"""Of a panel, beside its first and last number: they are written below it, half of each on either side."""

MARGIN_ABOVE = 0.15
"""Of a panel, above its dots: the rank correlation is written there."""

FEW_TRIALS = 8
"""With fewer, a strong rank correlation is nothing unusual where a knob does nothing."""

MAX_NUMBERS = 8
"""With more distinct numbers than this, a mean of each would only join single dots."""


def draw_effects(record: SweepRecord, summary: Summary, folder: Path) -> Picture | None:
    """Draw the effect of each knob; None where no knob was varied.

    Args:
        record: The sweep.
        summary: What it found.
        folder: Where the PNG goes.
    """
    effects = summary.effects
    if not effects:
        return None
    columns = min(COLUMNS, len(effects))
    rows = math.ceil(len(effects) / columns)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        figure.set_layout_engine("constrained", w_pad=EDGE_IN, h_pad=EDGE_IN, wspace=0.06, hspace=0.08)
        short = knob_labels(effect.name for effect in effects)
        for place, (axes, effect) in enumerate(zip(panels, effects, strict=False)):
            _panel(axes, effect, short[effect.name], record, summary, first=place % columns == 0)
        for axes in panels[len(effects) :]:
            axes.set_visible(False)

    return draw("effects", "What each knob did", (11.0, 3.3 * rows + 0.4), paint, folder)


def _panel(axes: Axes, effect: KnobEffect, name: str, record: SweepRecord, summary: Summary, first: bool) -> None:
    shades = colours(record.trials, summary)
    trials = [trial for trial in record.trials if counts(trial) and effect.name in trial.config]
    places = _places(effect)
    if not effect.numeric:
        for value, mean, _ in effect.means:
            x = places[key_of(value)]
            axes.plot([x - 0.3, x + 0.3], [mean, mean], color=MUTED, linewidth=2.2, zorder=2)
    elif len(effect.means) <= MAX_NUMBERS:
        axes.plot(*zip(*((value, mean) for value, mean, _ in effect.means), strict=True), color=MUTED, zorder=2)
    for trial in trials:
        value = trial.config[effect.name]
        _dot(axes, value if effect.numeric else places[key_of(value)], trial, shades[trial.trial_id], summary)
    dress(axes, "", "", summary.aim.metric if first else "")
    axes.set_title(name, loc="left", color=INK, fontsize=10.5, fontweight="bold", pad=8)
    if effect.rank_correlation is not None:
        axes.annotate(
            _told(effect.rank_correlation, len(effect.points)), (1, 1), xycoords="axes fraction",
            xytext=(-4, -4), textcoords="offset points", ha="right", va="top",
            color=MUTED, fontsize=8.5,
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    _ticks(axes, effect, places, effect.numeric and effect.name in drawn_by_ratio(record))


def _told(rank_correlation: float, num_trials: int) -> str:
    """A rank correlation with how many trials it is of, and what so few can show."""
    few = ": may be chance" if num_trials < FEW_TRIALS else ""
    sign = f"{rank_correlation:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f"rank correlation {sign}, {num_trials} trials{few}"


def _dot(axes: Axes, x: float, trial: TrialRecord, colour: str, summary: Summary) -> None:
    hollow = trial.status == "stopped"
    (drawn,) = axes.plot(
        x, metric_of(trial), "o", color=colour, markersize=6, markerfacecolor=SURFACE if hollow else colour,
        markeredgewidth=1.3, zorder=4,
    )  # fmt: skip
    tip(drawn, trial_tip(trial, summary.aim.metric))


def _places(effect: KnobEffect) -> dict[str, float]:
    return {key_of(value): float(place) for place, (value, _, _) in enumerate(effect.means)}


def _apart(values: Sequence[float], by_ratio: bool) -> bool:
    """Return whether numbers, ascending, can all be written below an axis."""
    scale = scale_of(values, by_ratio)
    places = [scale.place(value) for value in values]
    rooms = [PANEL_CHARACTERS * (after - before) for before, after in pairwise(places)]
    return all(room > len(tick_text(value)) for room, value in zip(rooms, values[1:], strict=True))


def _ticks(axes: Axes, effect: KnobEffect, places: dict[str, float], is_drawn: bool) -> None:
    values = [value for value, _, _ in effect.means]
    if not effect.numeric:
        _word_ticks(axes, values, places)
        return
    axes.margins(x=MARGIN, y=MARGIN_ABOVE)
    by_ratio = is_drawn or is_log(values)
    if by_ratio:
        axes.set_xscale("log")
    if not is_drawn and _apart(values, by_ratio):
        axes.set_xticks(values, [tick_text(value) for value in values])
    elif by_ratio:
        shown = log_ticks(values[0], values[-1])
        axes.set_xticks(shown, [tick_text(value) for value in shown])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_minor_locator(NullLocator())


def _word_ticks(axes: Axes, values: Sequence[Any], places: dict[str, float]) -> None:
    short = labels(values)
    axes.set_xticks(list(places.values()), [short[key] for key in places])
    axes.set_xlim(-0.6, len(values) - 0.4)
    if sum(len(label) for label in short.values()) > 26:
        axes.tick_params(axis="x", labelrotation=30)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
