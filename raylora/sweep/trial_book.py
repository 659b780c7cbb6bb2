"""How one trial of a sweep stands, from what its pack tells and what the steering side was told, in either order.

In come events and reports, out comes a `TrialRecord`. Called by the sweep's books.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raylora.store.sweeps import MAX_CURVE_POINTS, CurvePoint, TrialRecord, thinned
from raylora.train.events import Event

DENSE_POINTS = 2 * MAX_CURVE_POINTS
"""A curve is thinned when it has this many: not at every step, and long before it fills memory."""


class TrialBook:
    """One trial.

    Args:
        record: The trial, new or as an earlier process left it.
        metric: What trials are judged by, such as ``eval_loss``.
    """

    def __init__(self, record: TrialRecord, metric: str) -> None:
        self._record, self._metric = record, metric
        self._curve = {point.step: point for point in record.curve}
        self._counted = max((point[:2] for point in record.curve if point.train_loss is not None), default=(0, 0))
        self._judged_step = record.steps if record.metric is not None else -1
        self._is_stale = False

    @property
    def record(self) -> TrialRecord:
        """The trial as it stands."""
        if self._is_stale:
            curve = tuple(self._curve[step] for step in sorted(self._curve))
            if len(curve) > DENSE_POINTS:
                curve = thinned(curve)
                self._curve = {point.step: point for point in curve}
            self._record = self._record.model_copy(update={"curve": curve})
            self._is_stale = False
        return self._record

    def update(self, **fields: Any) -> None:
        """Change fields of the record."""
        self._record = self._record.model_copy(update=fields)

    @property
    def seen(self) -> dict[str, int]:
        """Step of the newest event of a kind that the curve has."""
        train = [step for step, point in self._curve.items() if point.train_loss is not None]
        evaluated = [step for step, point in self._curve.items() if point.eval_loss is not None]
        return {"step": max(train, default=-1), "eval": max(evaluated, default=-1)}

    def take(self, event: Event) -> None:
        """Note an event of the pack."""
        values = event.values
        match event.kind:
            case "placed":
                self.update(trainable_parameters=values.get("trainable_parameters"))
            case "step":
                self._point(event.step, self._tokens_at(event.step, values["num_tokens"]), values)
            case "eval":
                step, tokens = self._counted
                self._point(event.step, tokens if event.step >= step else None, values)
            case "outcome":
                progress = values["progress"]
                self.report(progress["step"], progress | progress.get("eval_metrics", {}))

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """Note what the steering side was told; its tokens are exact where those between reports may be estimates.

        Args:
            step: Optimizer steps done.
            values: ``eval_loss``, ``train_loss`` and ``num_tokens``, so far as there are any.
        """
        tokens = values.get("num_tokens")
        self._point(step, None if tokens is None else int(tokens), values)
        if tokens is not None and step >= self._counted[0]:
            self._counted = (step, int(tokens))

    def _tokens_at(self, step: int, num_tokens: float) -> int:
        """Tokens so far; steps that were not logged count as the logged one."""
        counted_step, tokens = self._counted
        if step > counted_step:
            self._counted = (step, tokens + int(num_tokens) * (step - counted_step))
            return self._counted[1]
        known = self._curve.get(step)  # a report was faster than this event
        before = max((point for point in self._curve.values() if point.step < step), default=None)
        return known.tokens if known else (before.tokens if before else 0) + int(num_tokens)

    def _point(self, step: int, tokens: int | None, values: Mapping[str, Any]) -> None:
        old = self._curve.get(step)
        if old is None:
            before = [point.tokens for point in self._curve.values() if point.step < step] if tokens is None else []
            old = CurvePoint(step, max(before, default=0))
        train, evaluated = _loss(values, "train_loss"), _loss(values, "eval_loss")
        self._curve[step] = CurvePoint(
            step,
            old.tokens if tokens is None else tokens,
            old.train_loss if train is None else train,
            old.eval_loss if evaluated is None else evaluated,
        )
        fields: dict[str, Any] = {}
        if step >= self._record.steps:
            fields |= {"steps": step, "tokens": self._curve[step].tokens}
        if values.get(self._metric) is not None and step >= self._judged_step:
            self._judged_step = step
            fields["metric"] = _loss(values, self._metric)
        self.update(**fields)
        self._is_stale = True


def _loss(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if value is not None and math.isfinite(value) else None
