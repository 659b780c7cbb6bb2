"""Losses of pairs against TRL's own functions, and against the formulas at points where they are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from trl.experimental.orpo import ORPOTrainer

from raylora.objectives.objective import Scores, Texts, measured
from raylora.objectives.preference import Kind, Preference
from raylora.objectives.supervised import Supervised

COUNTS = (3, 2, 1, 4)
"""Two pairs: labelled tokens of a chosen answer, of its rejected one, and of the next pair's."""


TEXTS = Texts(COUNTS)


def losses(seed: int) -> torch.Tensor:
    return torch.rand(sum(COUNTS), generator=torch.Generator().manual_seed(seed)) + 0.1


def scores(losses_N: torch.Tensor, reference_N: torch.Tensor | None = None) -> Scores:
    """Every other token is a hit."""
    return Scores(losses_N, torch.arange(len(losses_N)) % 2 == 0, reference_N)


def of_texts(losses_N: torch.Tensor) -> torch.Tensor:
    """Log-probability of each text of each pair."""
    return -torch.stack([part.sum() for part in losses_N.split(COUNTS)]).view(2, 2)


def loss_of(objective: Preference, losses_N: torch.Tensor, reference_N: torch.Tensor | None) -> float:
    sums_M, counts = objective.sums(scores(losses_N, reference_N), TEXTS), objective.counts(TEXTS)
    return measured(objective, (sums_M / torch.tensor(counts)).tolist()).loss


def test_dpo_is_equation_7():
    policy_N, reference_N = losses(0), losses(1)
    gain_P2 = of_texts(policy_N) - of_texts(reference_N)
    wanted = [-math.log(1 / (1 + math.exp(-0.3 * float(one - other)))) for one, other in gain_P2]
    assert loss_of(Preference("dpo", 0.3), policy_N, reference_N) == pytest.approx(sum(wanted) / 2, abs=1e-6)


@pytest.mark.parametrize(("kind", "wanted"), [("dpo", math.log(2)), ("ipo", (1 / (2 * 0.4)) ** 2)])
def test_a_run_that_is_its_reference_has_no_preference(kind: Kind, wanted: float):
    objective, losses_N = Preference(kind, 0.4), losses(2)
    means = objective.sums(scores(losses_N, losses_N), TEXTS) / torch.tensor(objective.counts(TEXTS))
    found = measured(objective, means.tolist())
    assert found.loss == pytest.approx(wanted)
    assert found.metrics == {"reward_accuracy": 0.0, "reward_margin": 0.0}


def test_orpo_is_trls_odds_ratio_beside_the_loss_of_chosen_tokens():
    losses_N, counts_P2 = losses(3), torch.tensor(COUNTS).view(2, 2)
    mean_P2 = of_texts(losses_N) / counts_P2
    trainer = SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device="cpu"))
    odds, chosen, rejected, _, _ = ORPOTrainer.odds_ratio_loss(trainer, mean_P2[:, 0], mean_P2[:, 1])
    nll = -of_texts(losses_N)[:, 0].sum() / counts_P2[:, 0].sum()
    objective = Preference("orpo", 0.2)
    assert loss_of(objective, losses_N, None) == pytest.approx(float(nll - odds.mean()), abs=1e-6)
    means = objective.sums(scores(losses_N), TEXTS) / torch.tensor(objective.counts(TEXTS))
    metrics = measured(objective, means.tolist()).metrics
    assert metrics["reward_margin"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-6)
    assert metrics["reward_accuracy"] == float((chosen > rejected).float().mean())


def test_orpo_with_prompts_adds_their_loss_and_judges_without():
    """A prompt's tokens before each chosen answer: as if they were not there, but in the cross-entropy."""
    prompts = (torch.tensor([0.7, 1.9]), torch.tensor([0.3]))
    chosen, rejected, *others = losses(6).split(COUNTS)
    whole_N = torch.cat([prompts[0], chosen, rejected, prompts[1], *others])
    is_answer = [0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    texts = Texts((5, 2, 2, 4), weights_N=torch.tensor(is_answer, dtype=torch.float32))
    objective = Preference("orpo", 0.2)
    found, without = (
        (objective.sums(scores(of_N), of) / torch.tensor(objective.counts(of))).tolist()
        for of_N, of in ((whole_N, texts), (losses(6), TEXTS))
    )
    assert found[1:] == pytest.approx(without[1:], abs=1e-6)
    learned = [*prompts[0].tolist(), *chosen.tolist(), *prompts[1].tolist(), *others[0].tolist()]
    assert found[0] == pytest.approx(sum(learned) / len(learned), abs=1e-6)
    assert found[0] != pytest.approx(without[0], abs=1e-2)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "orpo"])
def test_a_batch_of_nothing_has_a_gradient_of_nothing(kind: Kind):
    """A rank without rows goes back through the base all the same."""
    empty_N = torch.zeros(0, requires_grad=True)
    objective = Preference(kind, 0.1)
    sums_M = objective.sums(scores(empty_N, None if kind == "orpo" else empty_N.detach()), Texts(()))
    assert sums_M.tolist() == [0.0] * len(objective.counts(Texts(())))
    sums_M.sum().backward()


def test_an_answer_that_is_certain_leaves_orpo_finite():
    losses_N = losses(5)
    losses_N[:5] = 0.0  # both answers of the first pair
    losses_N.requires_grad_()
    Preference("orpo", 0.2).sums(scores(losses_N), TEXTS)[:2].sum().backward()
    assert losses_N.grad is not None and losses_N.grad.isfinite().all()
    assert math.isfinite(loss_of(Preference("orpo", 0.2), losses_N.detach(), None))


def test_supervised_is_the_mean_of_all_tokens():
    losses_N = losses(4)
    objective = Supervised()
    means = objective.sums(scores(losses_N), TEXTS) / torch.tensor(objective.counts(TEXTS))
    found = measured(objective, means.tolist())
    assert found.loss == pytest.approx(float(losses_N.mean()))
    assert found.metrics == pytest.approx({"perplexity": math.exp(losses_N.mean()), "token_accuracy": 0.5})


def test_a_loss_beyond_floats_has_a_perplexity_all_the_same():
    assert math.isfinite(measured(Supervised(), [1e6, 0.0]).metrics["perplexity"])
