"""The chunked loss of a head, frozen or trained, against torch's cross-entropy on whole logits, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raylora.objectives import linear_cross_entropy as module
from raylora.objectives.linear_cross_entropy import linear_cross_entropy

NUM_ROWS, HIDDEN, VOCAB = 13, 24, 101


@pytest.mark.parametrize("rows_a_chunk", [1, 4, 13, 1000])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_it_is_torchs_cross_entropy(rows_a_chunk: int, with_bias: bool, scale: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", rows_a_chunk * 4 * VOCAB)
    torch.manual_seed(0)
    hidden = torch.randn(NUM_ROWS, HIDDEN, requires_grad=True)
    weight, bias = torch.randn(VOCAB, HIDDEN), torch.randn(VOCAB) if with_bias else None
    targets, shares = torch.randint(VOCAB, (NUM_ROWS,)), torch.rand(NUM_ROWS)
    targets[:5] = F.linear(hidden, weight, bias)[:5].argmax(-1)
    losses, hits = linear_cross_entropy(hidden, weight, bias, targets, scale)
    (grad,) = torch.autograd.grad(losses @ shares, hidden)
    expected = F.cross_entropy(scale * F.linear(hidden, weight, bias), targets, reduction="none")
    (expected_grad,) = torch.autograd.grad(expected @ shares, hidden)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(hits, F.linear(hidden, weight, bias).argmax(-1) == targets) and not hits.requires_grad


@pytest.mark.parametrize("rows_a_chunk", [1, 4, 1000])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_head_that_trains_gets_torchs_gradients(
    rows_a_chunk: int, with_bias: bool, scale: float, monkeypatch: pytest.MonkeyPatch
):
    """Of losses that count unequally: their weights are known in the backward pass only."""
    monkeypatch.setattr(module, "CHUNK_BYTES", rows_a_chunk * 4 * VOCAB)
    torch.manual_seed(0)
    trained = [torch.randn(NUM_ROWS, HIDDEN), torch.randn(VOCAB, HIDDEN), *([torch.randn(VOCAB)] if with_bias else [])]
    hidden, weight, *biases = (tensor.requires_grad_() for tensor in trained)
    bias = biases[0] if biases else None
    targets, shares = torch.randint(VOCAB, (NUM_ROWS,)), torch.rand(NUM_ROWS)
    targets[:5] = F.linear(hidden, weight, bias)[:5].argmax(-1)
    losses, hits = linear_cross_entropy(hidden, weight, bias, targets, scale)
    grads = torch.autograd.grad(losses @ shares, [hidden, weight, *biases])
    expected = F.cross_entropy(scale * F.linear(hidden, weight, bias), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-5)
    for grad, wanted in zip(grads, torch.autograd.grad(expected @ shares, [hidden, weight, *biases]), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=2e-6)
    assert torch.equal(hits, F.linear(hidden, weight, bias).argmax(-1) == targets) and not hits.requires_grad


def test_a_head_in_bfloat16_loses_nothing_over_many_chunks(monkeypatch: pytest.MonkeyPatch):
    """Each adds less than a 256th of what has come together."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * VOCAB)
    torch.manual_seed(0)
    hidden, weight = 0.5 + torch.rand(1500, HIDDEN).bfloat16(), 0.1 * torch.randn(VOCAB, HIDDEN).bfloat16()
    targets, bias = torch.randint(4, (1500,)), torch.zeros(VOCAB).bfloat16()

    losses, _ = linear_cross_entropy(hidden, weight.requires_grad_(), bias.requires_grad_(), targets)
    grads = torch.autograd.grad(losses.sum(), [weight, bias])

    whole, whole_bias = weight.detach().float().requires_grad_(), bias.detach().float().requires_grad_()
    expected = F.cross_entropy(F.linear(hidden.float(), whole, whole_bias), targets, reduction="sum")
    for grad, wanted in zip(grads, torch.autograd.grad(expected, [whole, whole_bias]), strict=True):
        assert grad.dtype is torch.bfloat16
        assert float((grad.float() - wanted).norm() / wanted.norm()) < 0.01


def test_large_logits_stay_finite():
    hidden = torch.full((2, 4), 300.0, requires_grad=True)
    weight = torch.tensor([[1.0] * 4, [-1.0] * 4, [0.0] * 4])
    losses, _ = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 2400.0]))
    losses.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_bfloat16_sums_in_float32():
    torch.manual_seed(0)
    hidden = torch.randn(NUM_ROWS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    weight, targets = torch.randn(VOCAB, HIDDEN, dtype=torch.bfloat16), torch.randint(VOCAB, (NUM_ROWS,))
    losses, _ = linear_cross_entropy(hidden, weight, None, targets)
    assert losses.dtype is torch.float32
    expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-5)
    losses.mean().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype is torch.bfloat16


def test_no_rows_and_no_gradient():
    weight = torch.randn(VOCAB, HIDDEN)
    hidden = torch.randn(0, HIDDEN, requires_grad=True)
    losses, _ = linear_cross_entropy(hidden, weight, None, torch.empty(0, dtype=torch.long))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, HIDDEN)
    with torch.no_grad():
        losses, hits = linear_cross_entropy(torch.randn(3, HIDDEN), weight, None, torch.zeros(3, dtype=torch.long))
    assert losses.shape == hits.shape == (3,)
