"""The loss of single answers against TRL's own computation, and against the formula at points where it is known."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from raylora.objectives.choose import objective_of
from raylora.objectives.kto import Kto, gain_of, reference_point
from raylora.objectives.objective import Measured, Scores, Texts, measured
from raylora.spec.fields.metrics import GREATER_IS_BETTER, LOSSES, TOLD, Metric
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.task import TaskType
from raylora.spec.fields.train import TrainFields

COUNTS = (3, 2, 1, 4)
"""Labelled tokens of four answers."""

RATED = (True, False, True, True)


def losses(seed: int) -> torch.Tensor:
    return 3 * torch.rand(sum(COUNTS), generator=torch.Generator().manual_seed(seed)) + 0.1


def scores(losses_N: torch.Tensor, reference_N: torch.Tensor, point: float = 0.0) -> Scores:
    return Scores(losses_N, torch.zeros(len(losses_N), dtype=torch.bool), reference_N, torch.tensor(point))


def found(objective: Kto, of_texts: Scores, texts: Texts) -> Measured:
    means = objective.sums(of_texts, texts).double() / torch.tensor(objective.counts(texts))
    return measured(objective, means.tolist())


def test_it_is_equation_7():
    policy_N, reference_N, point = losses(0), losses(1), 0.7
    told = found(Kto(0.3, 1.2, 0.8), scores(policy_N, reference_N, point), Texts(COUNTS, RATED))
    gains = [float(part.sum()) for part in (reference_N - policy_N).split(COUNTS)]
    wanted = [
        1.2 * (1 - 1 / (1 + math.exp(-0.3 * (gain - point))))
        if is_desirable
        else 0.8 * (1 - 1 / (1 + math.exp(-0.3 * (point - gain))))
        for gain, is_desirable in zip(gains, RATED, strict=True)
    ]
    assert told.loss == pytest.approx(sum(wanted) / 4, abs=1e-6)
    desirable = 0.3 * (gains[0] + gains[2] + gains[3]) / 3
    rewards = {"reward_desirable": desirable, "reward_undesirable": 0.3 * gains[1]}
    margin = {"reward_margin": desirable - 0.3 * gains[1]}
    assert told.metrics == pytest.approx({**rewards, **margin, "kl": point}, abs=1e-6)


def test_the_gradient_is_that_of_the_formula():
    policy_N, reference_N = losses(2).requires_grad_(), losses(3)
    objective, texts = Kto(0.2, 1.0, 2.0), Texts(COUNTS, RATED)
    (grad,) = torch.autograd.grad(objective.sums(scores(policy_N, reference_N, 0.4), texts)[0], policy_N)
    gain_S = torch.stack([part.sum() for part in (reference_N - policy_N).split(COUNTS)])
    desirable, other = gain_S[[0, 2, 3]], gain_S[1]
    plain = (1 - F.sigmoid(0.2 * (desirable - 0.4))).sum() + 2 * (1 - F.sigmoid(0.2 * (0.4 - other)))
    (wanted,) = torch.autograd.grad(plain, policy_N)
    torch.testing.assert_close(grad, wanted)


def test_a_run_that_is_its_reference_has_half_of_the_weights():
    told = found(Kto(0.1, 1.0, 3.0), scores(losses(4), losses(4)), Texts(COUNTS, RATED))
    assert told.loss == pytest.approx((3 * 1.0 + 3.0) / 2 / 4)


def test_the_point_is_a_mean_over_texts_and_never_below_0():
    policy_N, reference_N = losses(5), losses(5) + 0.5
    gain = gain_of(scores(policy_N, reference_N))
    assert gain.item() == pytest.approx(0.5 * sum(COUNTS))
    assert reference_point(gain, torch.tensor(4.0)).item() == pytest.approx(0.5 * sum(COUNTS) / 4)
    assert reference_point(-gain, torch.tensor(4.0)).item() == 0.0


def test_what_was_not_there_is_not_told():
    told = found(Kto(0.1, 1.0, 1.0), scores(losses(6), losses(7)), Texts(COUNTS, (True,) * 4))
    assert set(told.metrics) == {"reward_desirable", "kl"}


def test_a_batch_of_nothing_has_a_gradient_of_nothing():
    """A rank without rows goes back through the base all the same."""
    empty_N = torch.zeros(0, requires_grad=True)
    objective = Kto(0.1, 1.0, 1.0)
    sums_M = objective.sums(scores(empty_N, empty_N.detach(), 0.3), Texts(()))
    assert sums_M.tolist() == [0.0] * len(objective.counts(Texts(())))
    sums_M.sum().backward()


@pytest.mark.parametrize("learned", TOLD)
def test_sweeps_know_what_each_objective_tells(learned: str):
    named = {"task_type": learned} if learned in get_args(TaskType) else {"rl": learned}
    labels = ("no", "yes") if learned.endswith("_cls") else ()
    objective = objective_of(RunFields.model_construct(labels=labels, **named))
    means = [1.0] * len(objective.counts(Texts((1, 1), (True, False))))
    assert {f"eval_{name}" for name in objective.metrics(means)} == set(TOLD[learned])


def test_every_metric_of_a_sweep_is_told_by_some_objective():
    assert set(get_args(Metric)) == {*LOSSES, *(name for names in TOLD.values() for name in names)}
    assert TOLD.keys() == {*get_args(TaskType), *get_args(get_args(TrainFields.model_fields["rl"].annotation)[0])}
    assert set(GREATER_IS_BETTER) < set(get_args(Metric))
