"""The mean loss of tokens with and without weights, over any parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from raylora.objectives.objective import Measured, Scores, Texts, measured
from raylora.objectives.supervised import Supervised

GENERATOR = torch.Generator().manual_seed(0)
LOSSES = torch.rand(40, generator=GENERATOR) * 4
IS_HIT = torch.rand(40, generator=GENERATOR) < 0.4
WEIGHTS = torch.rand(40, generator=GENERATOR).clamp(min=0.01)
PARTS = pytest.mark.parametrize("sizes", [[40], [1, 7, 30, 2]], ids=["whole", "parts"])


def of_parts(sizes: Sequence[int], weights_N: Tensor | None) -> Measured:
    """As a step or an evaluation sums over micro-batches and ranks."""
    objective, sums, counts = Supervised(), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    beside = [None] * len(sizes) if weights_N is None else weights_N.split(list(sizes))
    for scores, part, size in zip(Scores(LOSSES, IS_HIT).split(sizes), beside, sizes, strict=True):
        texts = Texts([size], weights_N=part)
        sums += objective.sums(scores, texts).double()
        counts += torch.tensor(objective.counts(texts), dtype=torch.float64)
    return measured(objective, (sums / counts).tolist())


@PARTS
def test_each_token_counts_by_its_weight(sizes: list[int]):
    found = of_parts(sizes, WEIGHTS)
    weighed = [(w, loss, hit) for w, loss, hit in zip(*(of.tolist() for of in (WEIGHTS, LOSSES, IS_HIT)), strict=True)]
    whole = sum(w for w, _, _ in weighed)
    assert found.loss == pytest.approx(sum(w * loss for w, loss, _ in weighed) / whole, rel=1e-6)
    assert found.metrics["token_accuracy"] == pytest.approx(sum(w * hit for w, _, hit in weighed) / whole, rel=1e-6)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.loss))


@PARTS
def test_only_what_weights_are_beside_each_other_counts(sizes: list[int]):
    assert of_parts(sizes, None).loss == pytest.approx(float(LOSSES.double().mean()), rel=1e-6)
    assert of_parts(sizes, torch.ones(40)) == of_parts(sizes, None)
    assert of_parts(sizes, torch.full((40,), 0.25)) == of_parts(sizes, None)


def test_only_the_loss_takes_a_gradient_and_by_weight():
    losses_N = LOSSES.clone().requires_grad_()
    Supervised().sums(Scores(losses_N, IS_HIT), Texts([40], weights_N=WEIGHTS)).sum().backward()
    assert torch.equal(losses_N.grad, WEIGHTS)
