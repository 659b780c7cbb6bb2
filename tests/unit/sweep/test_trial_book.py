"""One trial's curve and numbers from events and reports that come in either order."""

from __future__ import annotations

import math
from typing import Any

from raylora.store.sweeps import MAX_CURVE_POINTS, CurvePoint
from raylora.sweep.trial_book import DENSE_POINTS, TrialBook
from raylora.train.events import Event
from tests.unit.sweep.made_sweeps import trial


def step(number: int, loss: float = 2.0, num_tokens: float = 32.0) -> Event:
    return Event("step", number, {"train_loss": loss, "num_tokens": num_tokens, "learning_rate": 1e-3}, "r")


def evaluation(number: int, loss: float) -> Event:
    return Event("eval", number, {"eval_loss": loss}, "r")


def values(num_tokens: int, **losses: float | None) -> dict[str, Any]:
    return {"eval_loss": None, "train_loss": None, "num_tokens": num_tokens} | losses


def new(metric: str = "eval_loss", **fields: Any) -> TrialBook:
    return TrialBook(trial(0, **({"status": "running", "steps": 0, "tokens": 0} | fields)), metric)


def test_events_make_the_curve():
    book = new()
    for event in (evaluation(0, 3.0), step(1, 2.5, 30), step(2, 2.0, 34), evaluation(2, 2.2)):
        book.take(event)
    assert book.record.curve == (
        CurvePoint(0, 0, None, 3.0),
        CurvePoint(1, 30, 2.5, None),
        CurvePoint(2, 64, 2.0, 2.2),
    )
    assert (book.record.steps, book.record.tokens, book.record.metric) == (2, 64, 2.2)


def test_a_report_before_the_events_of_its_steps_is_kept_and_gives_the_tokens():
    book = new()
    book.report(0, values(0, eval_loss=3.0))
    book.report(2, values(70, train_loss=2.0, eval_loss=2.2))
    assert (book.record.steps, book.record.tokens, book.record.metric) == (2, 70, 2.2)
    for event in (evaluation(0, 3.0), step(1, 2.5, 30), step(2, 2.0, 40), evaluation(2, 2.2), step(3, 1.9, 30)):
        book.take(event)
    assert [point[:2] for point in book.record.curve] == [(0, 0), (1, 30), (2, 70), (3, 100)]
    assert book.record.metric == 2.2


def test_steps_that_are_not_logged_count_as_the_logged_one_until_a_report_says():
    book = new()
    book.take(step(4, num_tokens=30))
    assert book.record.tokens == 120
    book.report(4, values(111, train_loss=2.0))
    book.take(step(8, num_tokens=10))
    assert [point[:2] for point in book.record.curve] == [(4, 111), (8, 151)]


def test_the_metric_is_the_sweeps_and_the_newest():
    book = new("train_loss")
    book.report(5, values(50, train_loss=1.5, eval_loss=9.0))
    book.take(step(4, 1.9))
    assert book.record.metric == 1.5
    book.take(step(6, 1.4))
    assert book.record.metric == 1.4
    book.report(7, values(70, train_loss=math.nan))
    assert book.record.metric is None
    assert book.record.curve[-1].train_loss is None


def test_the_outcome_counts_as_a_report():
    book = new()
    book.take(Event("outcome", 6, {"progress": {"step": 6, "num_tokens": 60, "train_loss": 1.0, "eval_loss": 1.1}}))
    assert (book.record.steps, book.record.tokens, book.record.metric) == (6, 60, 1.1)


def test_what_else_evaluations_tell_may_be_the_metric():
    book = new("eval_token_accuracy")
    book.take(Event("eval", 2, {"eval_loss": 2.0, "eval_token_accuracy": 0.25}, "r"))
    book.take(step(3))
    assert book.record.metric == 0.25
    book.report(4, values(40, train_loss=1.0, eval_loss=1.5, eval_token_accuracy=0.5))
    assert book.record.metric == 0.5
    ended = {"step": 6, "num_tokens": 60, "train_loss": 1.0, "eval_loss": 1.1}
    book.take(Event("outcome", 6, {"progress": {**ended, "eval_metrics": {"eval_token_accuracy": 0.75}}}))
    assert book.record.metric == 0.75


def test_a_trial_of_an_earlier_process_goes_on():
    curve = (CurvePoint(0, 0, None, 3.0), CurvePoint(1, 30, 2.5), CurvePoint(2, 60, 2.2, 2.4), CurvePoint(3, 90, 2.1))
    book = new(curve=curve, steps=3, tokens=90, metric=2.4)
    assert book.record.curve == curve
    assert book.seen == {"step": 3, "eval": 2}
    book.take(step(3, 2.1, 30))  # it did this step again
    book.take(step(4, 2.0, 30))
    assert book.record.curve == (*curve, CurvePoint(4, 120, 2.0))


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    book, longest = new(), 0
    for number in range(1, 3 * DENSE_POINTS + 1):
        book.take(step(number, num_tokens=10))
        longest = max(longest, len(book.record.curve))
    curve = book.record.curve
    assert longest == DENSE_POINTS
    assert (curve[0].step, curve[-1][:2]) == (1, (3 * DENSE_POINTS, 30 * DENSE_POINTS))
    assert len(curve) >= MAX_CURVE_POINTS / 2
