"""Numbers, knobs and verdicts in words, the same on the page, in the pictures and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from raylora.spec.text.show import printable
from raylora.sweep.reporting.effects import key_of
from raylora.sweep.reporting.summary import Configuration, Summary, joint_spread, metric_of

MAX_LABEL = 22
"""Characters of a value in a picture."""


def number(value: float | None, digits: int = 4) -> str:
    """Return a metric or a loss with so many digits behind the point, or so many in all where that would say nothing.

    Args:
        value: The metric; `None`, a dash, where there is none.
        digits: How many, at least 1.
    """
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:.{digits}f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def large(value: int | None) -> str:
    """Return a count in the shape 4.9M."""
    if value is None:
        return "\N{EN DASH}"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def span(seconds: float) -> str:
    """Return a time in the unit a person would say it in."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def value_text(value: Any) -> str:
    """Return the value of a knob in full, on one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return ", ".join(value_text(each) for each in value)
    return json.dumps(value)


def label(value: Any) -> str:
    """Return a value of a knob in short: numbers in four digits; of a list, the items that fit and how many more."""
    if isinstance(value, float):
        return f"{value:.4g}"
    items = [item.removesuffix("_proj") for item in value_text(value).split(", ")]
    text = ", ".join(items)
    if len(text) <= MAX_LABEL:
        return text
    for kept in range(len(items) - 1, 0, -1):
        cut = f"{', '.join(items[:kept])} +{len(items) - kept}"
        if len(cut) <= MAX_LABEL:
            return cut
    return f"{text[: MAX_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"


def labels(values: Iterable[Any]) -> dict[str, str]:
    """Return a short label for each distinct value, by its `key_of`; no two share one."""
    short = {key_of(value): label(value) for value in values}
    taken: set[str] = set()
    for key, text in short.items():
        again = 2
        while short[key] in taken:
            short[key], again = f"{text} ({again})", again + 1
        taken.add(short[key])
    return short


def knob_labels(names: Iterable[str]) -> dict[str, str]:
    """Return each dotted field's last part, or the whole field where two end alike."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {name: name if last.count(end) > 1 else end for name, end in zip(names, last, strict=True)}


def config_text(config: Mapping[str, Any]) -> str:
    """Return a configuration on one line, each knob as `--set` takes it and without a space to break it at."""
    words = []
    for name, value in config.items():
        text = value_text(value)
        words.append(f"{name}=[{text.replace(', ', ',')}]" if isinstance(value, list | tuple) else f"{name}={text}")
    return " ".join(words)


def verdict(summary: Summary) -> list[str]:
    """Return what the sweep found and how far it can be trusted, a sentence each."""
    first, metric = summary.winner, summary.aim.metric
    if first is None:
        return [f"No trial reached a value of {metric}, so there is no best configuration."]
    found = f"{first.best.trial_id} is best with {metric} {number(first.mean)}"
    if first.spread is not None:
        found = (
            f"The configuration of {_names(first)} is best with {metric} {number(first.mean)} on average; "
            f"its {len(first.counted)} repeats spread by {number(first.spread)}"
        )
    sentences = [f"{found}."]
    if not first.is_whole:
        sentences.append(
            "No configuration has trained to its end: they are compared as they stand, and only at its end is "
            "something of one published."
        )
    return [*sentences, *_twins(summary), *_lead(summary), *_luckier(summary, first)]


def _twins(summary: Summary) -> list[str]:
    first = summary.ranking[0]
    twins = [_names(each) for each in summary.ranking[1:] if each.equals(first)]
    return [f"It was drawn again as {', '.join(twins)}: the same training, not a repeat of it."] if twins else []


def _luckier(summary: Summary, first: Configuration) -> list[str]:
    lucky = summary.luckiest
    if lucky is None or lucky in first.counted:
        return []
    if any(lucky in each.counted for each in summary.compared):
        why = "the mean of its configuration's repeats is worse"
        return [f"{lucky.trial_id} alone reached {number(metric_of(lucky))}, but {why}."]
    state = f"{lucky.trial_id}, {lucky.status} at step {lucky.steps}, stands at {number(metric_of(lucky))}"
    return [f"{state}, but only what trained to its end is compared."]


def _lead(summary: Summary) -> list[str]:
    first, second = summary.ranking[0], summary.runner_up
    if second is None:
        return ["No other configuration trained as far, so there is none to compare it with."]
    lead, spread = abs(first.mean - second.mean), joint_spread(first, second)
    over = f"over the second, {_names(second)}"
    if spread is None:
        verdict = [
            f"Its lead of {number(lead)} {over}, may be chance: with one repeat each, no spread was measured. "
            "Repeat the best configurations under other seeds to know."
        ]
    elif lead <= spread:
        others = f"; {summary.level} configurations are level" if summary.level > 2 else ""
        verdict = [
            f"Its lead of {number(lead)} {over}, is within the spread of repeats ({number(spread)}): "
            f"the two cannot be told apart{others}."
        ]
    else:
        verdict = [f"Its lead of {number(lead)} {over}, is larger than the spread of repeats ({number(spread)})."]
    tokens = [max(trial.tokens for trial in each.counted) for each in (first, second)]
    if tokens[0] != tokens[1]:
        verdict.append(f"The two did not train equally long: {tokens[0]:,} tokens against {tokens[1]:,}.")
    return verdict


def _names(configuration: Configuration) -> str:
    return ", ".join(trial.trial_id for trial in configuration.trials)
