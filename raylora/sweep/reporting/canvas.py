"""What all pictures of a sweep share: their colours, a figure to draw on, and the two forms they leave in.

A picture is drawn once and leaves as a PNG on white and as SVG for the page. In the SVG each colour is the page's
variable of that name, so that one picture reads in light and in dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raylora.store.sweeps import TrialRecord
from raylora.sweep.reporting.summary import Summary, counts, metric_of
from raylora.sweep.reporting.words import config_text, number
from raylora.tracking.loss_picture import GRID, VALIDATION
from raylora.tracking.loss_picture import INK as _INK

INK, MUTED, SURFACE, FAILED, WINNER = _INK, "#6b7280", "#ffffff", "#be123c", VALIDATION
RAMP = ("#1e40af", "#3b66d1", "#6f93e3", "#9db6ec", "#c3d2f2")
"""Trials from the best fifth to the last."""

VARIABLES = {
    INK: "ink",
    GRID: "grid",
    MUTED: "muted",
    SURFACE: "surface",
    FAILED: "failed",
    WINNER: "winner",
    **{colour: f"ramp-{place}" for place, colour in enumerate(RAMP)},
}
"""The page's name of each colour."""

EDGE_IN = 0.12
"""Inches kept free around a picture, and around each of its panels."""

_TIP = "tip: "


@dataclass(frozen=True)
class Picture:
    """One picture of a sweep.

    Args:
        name: Name of its file, without the ending.
        title: What it shows.
        svg: For the page.
    """

    name: str
    title: str
    svg: str


def draw(name: str, title: str, size: tuple[float, float], paint: Callable[[Figure], None], folder: Path) -> Picture:
    """Draw a picture, write its PNG and return it.

    Args:
        name: Name of its file, without the ending.
        title: What it shows.
        size: Width and height in inches.
        paint: Draws on the figure.
        folder: Where the PNG goes.
    """
    # Regular expressions are values of knobs: a dollar in them starts no formula.
    with rc_context({"text.parse_math": False, "svg.fonttype": "none", "font.size": 9.5, "svg.hashsalt": name}):
        figure = Figure(figsize=size, dpi=150, facecolor=SURFACE)
        figure.set_layout_engine("constrained", w_pad=EDGE_IN, h_pad=EDGE_IN)
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(folder / f"{name}.png", format="png")
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Picture(name, title, _for_page(text.getvalue(), title, min_width_px=80 * size[0]))


def tip(artist: Artist, text: str) -> None:
    """Let a mark say something where the pointer rests on it.

    Args:
        artist: The mark, as matplotlib drew it.
        text: Plain words, one line or several.
    """
    artist.set_gid(_TIP + text)


def trial_tip(trial: TrialRecord, metric: str) -> str:
    """Return what a trial's mark says.

    Args:
        trial: The trial.
        metric: Name of the sweep's metric.
    """
    return f"{trial.trial_id} ({trial.status}): {metric} {number(trial.metric)}\n{config_text(trial.config)}"


def colours(trials: tuple[TrialRecord, ...], summary: Summary) -> dict[str, str]:
    """Return each trial's colour by its id: the winner's repeats, then fifths by rank, then those without a result.

    Args:
        trials: All of the sweep.
        summary: What they came to: the winner, and whether more is better.
    """
    better = summary.aim.better
    ranked = sorted((trial for trial in trials if counts(trial)), key=lambda trial: better(metric_of(trial)))
    shades = {trial.trial_id: RAMP[place * len(RAMP) // len(ranked)] for place, trial in enumerate(ranked)}
    winners = summary.winner.counted if summary.winner else ()
    return {trial.trial_id: FAILED for trial in trials} | shades | {trial.trial_id: WINNER for trial in winners}


def _for_page(svg: str, title: str, min_width_px: float) -> str:
    """Take what belongs to a file of its own out of an SVG, and put the page's colours and tips in."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    # A picture wider than the page is scrolled, so that its words stay as large as those around it.
    head = rf'<svg \1 style="min-width: {min_width_px:.0f}px" role="img" aria-label="{escape(title)}">'
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, svg, count=1)
    svg = re.sub(rf'<g id="{_TIP}([^"]*)"([^>]*)>', r'<g class="tip"\2><title>\1</title>', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda found: f"{found[1]}: {_variable(found[2])}", svg)
    return svg.strip()


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour
