"""The report of a sweep: one page that needs nothing beside it, and its pictures as PNG.

A `SweepRecord` enters, files leave. Called by `raylora report` and, at the end of a sweep, by its driver. Needs neither
Ray nor torch, and nothing from the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from raylora.spec.text.yaml_text import write_yaml
from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.asked import run_yaml
from raylora.sweep.reporting.canvas import Picture
from raylora.sweep.reporting.curves_picture import draw_curves
from raylora.sweep.reporting.effects import knobs_of
from raylora.sweep.reporting.effects_picture import draw_effects
from raylora.sweep.reporting.parallel_picture import draw_parallel
from raylora.sweep.reporting.size_picture import draw_sizes
from raylora.sweep.reporting.summary import Configuration, Summary, summarise
from raylora.sweep.reporting.words import knob_labels, labels, large, number, span, value_text, verdict

PAGE, WINNER_YAML = "report.html", "winner.yaml"

_DRAW = {"curves": draw_curves, "parallel": draw_parallel, "effects": draw_effects, "sizes": draw_sizes}


@dataclass(frozen=True)
class Report:
    """Where a report lies.

    Args:
        page: The page.
        pictures: PNG files by name: curves, parallel, effects, sizes; those for which the sweep has enough.
        winner: The best configuration, for `raylora train`; None where no trial has a result.
        summary: What the sweep found.
    """

    page: Path
    pictures: dict[str, Path]
    winner: Path | None
    summary: Summary


def write_report(record: SweepRecord, folder: Path) -> Report:
    """Write the report of a sweep, over or not, into a folder; an older one there is replaced.

    Args:
        record: The sweep.
        folder: Made where it does not exist.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An older report may have had a winner, or a picture, where this one has none.
    for name in (PAGE, WINNER_YAML, *(f"{name}.png" for name in _DRAW)):
        (folder / name).unlink(missing_ok=True)
    summary = summarise(record)
    drawn = (draw(record, summary, folder) for draw in _DRAW.values())
    pictures = [picture for picture in drawn if picture is not None]
    ready = _ready(record, summary)
    (folder / PAGE).write_text(_page(record, summary, pictures, ready), encoding="utf-8")
    if ready is not None:
        (folder / WINNER_YAML).write_text(ready, encoding="utf-8")
    return Report(
        page=folder / PAGE,
        pictures={picture.name: folder / f"{picture.name}.png" for picture in pictures},
        winner=folder / WINNER_YAML if ready is not None else None,
        summary=summary,
    )


def _ready(record: SweepRecord, summary: Summary) -> str | None:
    winner = summary.winner
    if winner is None:
        return None
    found = f"{summary.aim.metric} {winner.mean:.6g}, trial {winner.best.trial_id} of sweep {record.sweep_id}"
    return f"# {found}\n{run_yaml(record, winner.best)}"


def _page(record: SweepRecord, summary: Summary, pictures: Sequence[Picture], ready: str | None) -> str:
    here = files("raylora.sweep.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "large": large, "value": value_text}
    knobs = knobs_of(record.trials)
    return environment.from_string(here.joinpath("page.html").read_text(encoding="utf-8")).render(
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        record=record,
        summary=summary,
        pictures={picture.name: picture for picture in pictures},
        ready=ready,
        verdict=verdict(summary),
        facts=_facts(record, summary),
        took=span((record.updated - record.created).total_seconds()),
        knobs=knobs,
        short=knob_labels(knobs),
        cut=_cut_labels(summary),
        places={trial.trial_id: place for place, each in enumerate(summary.ranking, 1) for trial in each.counted},
        repeated=any(len(each.trials) > 1 for each in summary.ranking),
        failed=[trial for trial in record.trials if trial.status == "failed"],
        trials=_ordered(record.trials, summary.ranking),
        spec=write_yaml(record.spec),
    )


def _facts(record: SweepRecord, summary: Summary) -> list[tuple[str, str]]:
    """The numbers at the head of the page: a value and what it counts."""
    statuses = [trial.status for trial in record.trials]
    endings = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses)))
    facts = [(str(len(record.trials)), f"trials: {endings}" if endings else "trials")]
    if summary.winner:
        mean = "" if summary.winner.spread is None else ", mean of repeats"
        size = summary.winner.best.trainable_parameters
        facts.insert(0, (number(summary.winner.mean), f"best {summary.aim.metric}{mean}"))
        facts += [(large(size), "trainable parameters in the best")] if size is not None else []
    facts.append((large(sum(trial.tokens for trial in record.trials)), "tokens trained on, in all"))
    packs = {trial.pack for trial in record.trials} - {None}
    if packs:
        facts.append((str(len(packs)), "packs" if len(packs) > 1 else "pack"))
    return facts


def _cut_labels(summary: Summary) -> dict[str, str]:
    """Labels of the pictures that say less than their value, and the value."""
    values = [value for effect in summary.effects if not effect.numeric for value, _, _ in effect.means]
    short = labels(values).values()
    return {label: value_text(value) for label, value in zip(short, _distinct(values), strict=True)
            if label != value_text(value)}  # fmt: skip


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({value_text(value): value for value in values}.values())


def _ordered(trials: Sequence[TrialRecord], ranking: Sequence[Configuration]) -> list[TrialRecord]:
    """All trials: those with a result by the rank of their configuration, then the others in order."""
    ranked = [trial for each in ranking for trial in each.counted]
    known = {trial.trial_id for trial in ranked}
    return [*ranked, *(trial for trial in trials if trial.trial_id not in known)]
