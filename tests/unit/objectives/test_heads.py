"""Classification and rewards from scores: beside scikit-learn and torch, and over any parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from raylora.objectives.classification import Classification
from raylora.objectives.head_scores import head_scores
from raylora.objectives.objective import Measured, Objective, Texts, measured
from raylora.objectives.reward import Reward


def drawn_scores(num_labels: int, num_classes: int, of: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Classes, those alone that are named, and random scores."""
    generator = torch.Generator().manual_seed(num_labels)
    drawn = torch.randint(len(of) or num_classes, (num_labels,), generator=generator)
    targets = torch.tensor(of)[drawn] if of else drawn
    return targets, torch.randn(num_labels, num_classes, generator=generator)


def of_parts(objective: Objective, classes: Tensor, logits: Tensor, sizes: list[int]) -> Measured:
    """As a step or an evaluation sums over micro-batches and ranks."""
    sums, counts = 0.0, torch.tensor(0)
    for part, size in zip(head_scores(classes, logits).split(sizes), sizes, strict=True):
        sums = sums + objective.sums(part, Texts([1] * size)).double()
        counts = counts + torch.tensor(objective.counts(Texts([1] * size)))
    return measured(objective, (sums / counts).tolist())


@pytest.mark.parametrize("of", [(), (1, 3)], ids=["all-classes", "some-classes"])
@pytest.mark.parametrize("sizes", [[40], [1, 7, 30, 2]], ids=["whole", "parts"])
def test_loss_accuracy_and_f1_are_those_of_torch_and_scikit_learn(sizes: list[int], of: tuple[int, ...]):
    targets, logits = drawn_scores(40, 5, of)
    answers = logits.argmax(1)
    found = of_parts(Classification(5), targets, logits, sizes)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, targets)), abs=1e-6)
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(targets, answers))
    assert found.metrics["f1"] == pytest.approx(f1_score(targets, answers, average="macro"))


def test_a_class_that_never_occurs_does_not_count():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    assert of_parts(Classification(3), torch.tensor([0, 1]), logits, [2]).metrics == {"accuracy": 1.0, "f1": 1.0}


def test_only_the_loss_takes_a_gradient():
    classes, drawn = drawn_scores(6, 3)
    logits, wanted = drawn.clone().requires_grad_(), drawn.clone().requires_grad_()
    Classification(3).sums(head_scores(classes, logits), Texts([1] * 6)).sum().backward()
    F.cross_entropy(wanted, classes, reduction="sum").backward()
    torch.testing.assert_close(logits.grad, wanted.grad)


@pytest.mark.parametrize("sizes", [[12], [2, 6, 4]], ids=["whole", "parts"])
def test_a_reward_is_the_log_sigmoid_of_a_difference(sizes: list[int]):
    _, rewards = drawn_scores(12, 1)
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    found = of_parts(Reward(), torch.zeros(12, dtype=torch.int64), rewards, sizes)
    assert found.loss == pytest.approx(float(-F.logsigmoid(chosen - rejected).mean()), abs=1e-6)
    assert found.metrics["reward_accuracy"] == pytest.approx(float((chosen > rejected).float().mean()))
    assert found.metrics["reward_margin"] == pytest.approx(float((chosen - rejected).mean()))
