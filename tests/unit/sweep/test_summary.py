from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.store.sweeps import TrialRecord
from raylora.sweep.reporting.effects import knob_effects, varied_knobs
from raylora.sweep.reporting.summary import Summary, counts, summarise
from raylora.sweep.reporting.words import verdict
from tests.unit.sweep.made_sweeps import sweep, trial

STATUSES = st.sampled_from(["running", "paused", "succeeded", "stopped", "failed", "cancelled"])
ENDS = st.lists(st.tuples(st.none() | st.integers(0, 40), STATUSES), min_size=1, max_size=3)
DRAWS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), ENDS), max_size=8)
"""Rank, size and the ends of all repeats; the same rank may be drawn again."""

TRIALS = DRAWS.map(
    lambda draws: [
        trial(
            number, None if tenths is None else tenths / 10, config={"lora_r": rank}, status=status,
            trainable_parameters=100 * rank + size, repeat=repeat,
        )
        for number, (rank, size, repeat, tenths, status) in enumerate(
            (rank, size, repeat, *end) for rank, size, ends in draws for repeat, end in enumerate(ends)
        )
    ]
)  # fmt: skip


def repeated(**metrics: list[float | None]) -> list[TrialRecord]:
    """Trials of some configurations, a list of repeats each."""
    rows = [(name, repeat, m) for name, values in metrics.items() for repeat, m in enumerate(values)]
    return [
        trial(number, m, config={"lr_scheduler": name}, repeat=repeat, status="failed" if m is None else "succeeded")
        for number, (name, repeat, m) in enumerate(rows)
    ]


def order(summary: Summary) -> list[str]:
    return [each.config["lr_scheduler"] for each in summary.ranking]


def test_the_best_mean_wins_and_its_best_trial_is_named():
    summary = summarise(sweep(repeated(a=[1.0, 1.2, 1.4], b=[0.9, 1.8], c=[None, 1.3])))
    assert order(summary) == ["a", "c", "b"]
    first = summary.ranking[0]
    assert (first.mean, first.spread) == (pytest.approx(1.2), pytest.approx(0.2))
    assert summary.ranking[1].spread is None
    assert [t.trial_id for t in summary.ranking[1].trials] == ["t005", "t006"]
    assert [t.trial_id for t in summary.ranking[1].counted] == ["t006"]
    assert summary.best_trial is not None and summary.luckiest is not None
    assert (summary.best_trial.trial_id, summary.luckiest.trial_id) == ("t000", "t003")
    assert any("t003 alone reached 0.9000" in sentence for sentence in verdict(summary))


def test_more_is_better_where_it_was_asked():
    summary = summarise(sweep(repeated(a=[1.0], b=[2.0], c=[1.5]), mode="max"))
    assert order(summary) == ["b", "c", "a"]
    assert summary.best_trial is not None
    assert summary.best_trial.metric == 2.0


def test_failed_and_cancelled_trials_do_not_count():
    trials = [
        trial(0, 0.1, status="failed", config={"lora_r": 1}),
        trial(1, 0.2, status="cancelled", config={"lora_r": 2}),
        trial(2, 0.5, status="stopped", config={"lora_r": 4}),
        trial(3, 0.6, config={"lora_r": 8}),
    ]
    summary = summarise(sweep(trials))
    assert [each.best.trial_id for each in summary.ranking] == ["t003", "t002"]


def test_no_result_is_no_winner():
    summary = summarise(sweep([trial(0, status="failed")]))
    assert (summary.winner, summary.best_trial, summary.luckiest, summary.level) == (None, None, None, 0)
    assert verdict(summary) == ["No trial reached a value of eval_loss, so there is no best configuration."]
    assert summarise(sweep([])).ranking == ()


def test_a_lead_within_the_spread_is_said():
    # Spreads 0.1 and 0.1: a lead of 0.05 is inside, and the third, 0.09 behind, is level too.
    summary = summarise(
        sweep(repeated(a=[1.0, 1.1, 1.2], b=[1.05, 1.15, 1.25], c=[1.09, 1.19, 1.29], d=[2.0, 2.1, 2.2]))
    )
    assert summary.level == 3
    (lead,) = [sentence for sentence in verdict(summary) if "lead" in sentence]
    assert "Its lead of 0.0500 over the second, t003, t004, t005, is within the spread of repeats (0.1000)" in lead
    assert "cannot be told apart; 3 configurations are level" in lead


def test_a_lead_beyond_the_spread_is_said():
    summary = summarise(sweep(repeated(a=[1.0, 1.02], b=[1.5, 1.52])))
    assert summary.level == 1
    assert any("lead of 0.5000" in s and "larger than the spread of repeats (0.0141)" in s for s in verdict(summary))


def test_one_repeat_measures_no_spread_and_that_is_said():
    summary = summarise(sweep(repeated(a=[1.0], b=[1.5])))
    assert summary.level == 1
    assert any("no spread was measured" in sentence for sentence in verdict(summary))


def test_a_single_configuration_has_nothing_beside_it():
    alone = "No other configuration trained as far, so there is none to compare it with."
    assert alone in verdict(summarise(sweep([trial(0, 1.0)])))


def test_only_what_trained_to_its_end_wins():
    trials = [
        trial(0, 1.0, config={"lora_r": 4}, status="stopped", steps=4, trainable_parameters=100),
        trial(1, 1.05, config={"lora_r": 8}, steps=16, trainable_parameters=200),
        trial(2, 1.01, config={"lora_r": 16}, status="running", steps=8, trainable_parameters=300),
    ]
    summary = summarise(sweep(trials))
    assert summary.best_trial == trials[1]
    assert [each.best.number for each in summary.ranking] == [1, 0, 2]
    assert ([each.best for each in summary.front], summary.level) == ([trials[1]], 1)
    assert verdict(summary) == [
        "t001 is best with eval_loss 1.0500.",
        "No other configuration trained as far, so there is none to compare it with.",
        "t000, stopped at step 4, stands at 1.0000, but only what trained to its end is compared.",
    ]


def test_where_nothing_trained_to_its_end_all_are_compared_and_that_is_said():
    trials = [trial(n, m, config={"lora_r": n}, status="stopped") for n, m in enumerate([1.2, 1.0, 1.1])]
    summary = summarise(sweep(trials))
    assert [each.best.number for each in summary.ranking] == [1, 2, 0]
    assert summary.runner_up is not None and summary.runner_up.best == trials[2]
    assert verdict(summary)[1].startswith("No configuration has trained to its end: they are compared as they stand")


def test_what_is_drawn_twice_is_no_repeat():
    trials = [trial(number, m, config={"lora_r": r}) for number, (r, m) in enumerate([(8, 1.0), (8, 1.0), (4, 1.1)])]
    summary = summarise(sweep(trials))
    assert [each.spread for each in summary.ranking] == [None] * 3
    assert (summary.best_trial, summary.level) == (trials[0], 1)
    assert verdict(summary) == [
        "t000 is best with eval_loss 1.0000.",
        "It was drawn again as t001: the same training, not a repeat of it.",
        "Its lead of 0.1000 over the second, t002, may be chance: with one repeat each, no spread was measured. "
        "Repeat the best configurations under other seeds to know.",
    ]


def test_what_is_drawn_again_and_stopped_early_takes_nothing_from_the_first():
    ends = [(8, 1.0, "succeeded"), (8, 1.6, "stopped"), (4, 1.2, "succeeded")]
    trials = [trial(number, m, config={"lora_r": r}, status=end) for number, (r, m, end) in enumerate(ends)]
    assert summarise(sweep(trials)).best_trial == trials[0]


def test_equal_draws_are_level_once():
    rows = [(8, 1.0), (8, 1.2), (8, 1.0), (8, 1.2), (4, 1.1), (4, 1.2)]
    trials = [trial(number, m, config={"lora_r": r}, repeat=number % 2) for number, (r, m) in enumerate(rows)]
    assert summarise(sweep(trials)).level == 2


def test_an_unequal_training_is_said():
    trials = [trial(0, 1.0, config={"lora_r": 1}, tokens=100), trial(1, 2.0, config={"lora_r": 2}, tokens=50)]
    assert "The two did not train equally long: 100 tokens against 50." in verdict(summarise(sweep(trials)))


def test_the_front_is_what_none_as_small_beats():
    sizes = {100: 2.0, 200: 1.5, 300: 1.7, 400: 1.5, 500: 1.0}
    trials = [
        trial(number, metric, config={"lora_r": size}, trainable_parameters=size)
        for number, (size, metric) in enumerate(sizes.items())
    ]
    assert [each.best.trainable_parameters for each in summarise(sweep(trials)).front] == [100, 200, 500]


@given(TRIALS, st.sampled_from(["min", "max"]))
def test_ranking_and_front_against_their_definitions(trials: list[TrialRecord], mode: str):
    summary = summarise(sweep(trials, mode=mode))
    sign = -1 if mode == "max" else 1
    groups: dict[int, list[float]] = {}
    first = 0
    for number, each in enumerate(trials):
        first = number if each.repeat == 0 else first
        if each.metric is not None and each.status not in ("failed", "cancelled"):
            groups.setdefault(first, []).append(each.metric)
    assert sorted(each.trials[0].number for each in summary.ranking) == sorted(groups)
    for each in summary.ranking:
        metrics = groups[each.trials[0].number]
        assert math.isclose(each.mean, fmean(metrics), abs_tol=1e-12)
        assert each.spread == (stdev(metrics) if len(metrics) > 1 else None)
        assert sign * (each.best.metric or 0) == min(sign * metric for metric in metrics)
    keys = [(any(t.status != "succeeded" for t in each.counted), sign * each.mean) for each in summary.ranking]
    assert keys == sorted(keys)
    compared = [each for each, key in zip(summary.ranking, keys, strict=True) if key[0] == keys[0][0]]

    def beaten(size: int, mean: float) -> bool:
        others = [(other.best.trainable_parameters or 0, sign * other.mean) for other in compared]
        return any(s <= size and m <= mean and (s, m) != (size, mean) for s, m in others)

    points = {(each.best.trainable_parameters or 0, sign * each.mean) for each in compared}
    front = [(each.best.trainable_parameters or 0, sign * each.mean) for each in summary.front]
    assert set(front) == {point for point in points if not beaten(*point)}
    assert len(front) == len(set(front))


def test_words_have_means_and_numbers_a_rank_correlation():
    rows = [(8, "q", 3.0), (16, "v", 2.0), (32, "q", 2.0), (64, "v", 1.0)]
    trials = [trial(n, m, config={"lora_r": r, "target": t, "same": 1}) for n, (r, t, m) in enumerate(rows)]
    rank, target = knob_effects(trials)
    assert (rank.name, rank.numeric) == ("lora_r", True)
    # Ranks 1 2 3 4 against 4 2.5 2.5 1: covariance -4.5, variances 5 and 4.5.
    assert rank.rank_correlation == pytest.approx(-4.5 / math.sqrt(5 * 4.5))
    assert (target.name, target.numeric, target.rank_correlation) == ("target", False, None)
    assert target.means == (("q", 2.5, 2), ("v", 1.5, 2))


def test_lists_flags_and_absent_knobs():
    configs = [{"targets": ["q", "v"], "on": True}, {"targets": "all", "on": 1}, {"on": True, "ratio": 0.5}]
    trials = [trial(number, float(number), config=config) for number, config in enumerate(configs)]
    targets, flag = knob_effects(trials)
    assert targets.means == ((["q", "v"], 0.0, 1), ("all", 1.0, 1))
    assert (flag.numeric, [value for value, _, _ in flag.means]) == (False, [True, 1])
    assert varied_knobs(trials) == ("targets", "on", "ratio")


def test_an_unmoved_metric_has_no_correlation():
    (effect,) = knob_effects([trial(number, 1.0, config={"lora_r": number}) for number in range(4)])
    assert effect.rank_correlation is None


@given(TRIALS)
def test_means_of_a_knob_weigh_up_to_all_points(trials: list[TrialRecord]):
    for effect in knob_effects([each for each in trials if counts(each)]):
        assert sum(count for _, _, count in effect.means) == len(effect.points)
        total = sum(mean * count for _, mean, count in effect.means)
        assert math.isclose(total, sum(metric for _, metric in effect.points), abs_tol=1e-9)
        assert effect.rank_correlation is None or -1 - 1e-9 <= effect.rank_correlation <= 1 + 1e-9
