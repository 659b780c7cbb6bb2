"""Each knob against the metric: a panel a knob, a dot a trial, a bar or a line for the means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.canvas import INK, MUTED, SURFACE, Picture, colours, draw, tip, trial_tip
from raylora.sweep.effects import KnobEffect, key_of
from raylora.sweep.scales import is_log, scale_of
from raylora.sweep.summary import Summary, counts, metric_of
from raylora.sweep.words import knob_labels, labels, value_text
from raylora.tracking.loss_picture import dress

COLUMNS = 3
PANEL_CHARACTERS = 36
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
        figure.set_layout_engine("constrained", wspace=0.06, hspace=0.08)
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
    dress(axes, "", "", summary.asked.metric if first else "")
    axes.set_title(name, loc="left", color=INK, fontsize=10.5, fontweight="bold", pad=8)
    if effect.rank_correlation is not None:
        told = f"rank correlation {effect.rank_correlation:+.2f}".replace("-", "\N{MINUS SIGN}")
        axes.annotate(
            told, (1, 1), xycoords="axes fraction", xytext=(-4, -4), textcoords="offset points", ha="right", va="top",
            color=MUTED, fontsize=8.5,
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    _ticks(axes, effect, places)


def _dot(axes: Axes, x: float, trial: TrialRecord, colour: str, summary: Summary) -> None:
    hollow = trial.status == "stopped"
    (drawn,) = axes.plot(
        x, metric_of(trial), "o", color=colour, markersize=6, markerfacecolor=SURFACE if hollow else colour,
        markeredgewidth=1.3, zorder=4,
    )  # fmt: skip
    tip(drawn, trial_tip(trial, summary.asked.metric))


def _places(effect: KnobEffect) -> dict[str, float]:
    return {key_of(value): float(place) for place, (value, _, _) in enumerate(effect.means)}


def _apart(values: Sequence[float]) -> bool:
    """Return whether numbers, ascending, can all be written below an axis."""
    scale = scale_of(values)
    places = [scale.place(value) for value in values]
    rooms = [PANEL_CHARACTERS * (after - before) for before, after in pairwise(places)]
    return all(room > len(value_text(value)) for room, value in zip(rooms, values[1:], strict=True))


def _ticks(axes: Axes, effect: KnobEffect, places: dict[str, float]) -> None:
    values = [value for value, _, _ in effect.means]
    if effect.numeric and is_log(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if effect.numeric and _apart(values):
        axes.set_xticks(values, [value_text(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
    elif not effect.numeric:
        short = labels(values)
        axes.set_xticks(list(places.values()), [short[key] for key in places])
        axes.set_xlim(-0.6, len(values) - 0.4)
        if sum(len(label) for label in short.values()) > 26:
            axes.tick_params(axis="x", labelrotation=30)
            for text in axes.get_xticklabels():
                text.set_horizontalalignment("right")
                text.set_rotation_mode("anchor")
