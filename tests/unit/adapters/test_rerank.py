"""A smaller rank is the truncated singular value decomposition; one rank and one scale leave products as they are."""

from __future__ import annotations

import math

import pytest
import torch

from raylora.adapters.delta import Delta
from raylora.adapters.rerank import evened, reranked, truncated

SHAPES = [(24, 16, 8), (16, 40, 8), (6, 40, 9), (40, 5, 9)]
"""O, I and R; in the last two a side is smaller than the rank."""


def delta(num_outputs: int, num_inputs: int, r: int, scale: float = 2.0, module: str = "layer") -> Delta:
    draw = torch.Generator().manual_seed(num_outputs + num_inputs + r)
    a_RI, b_OR = torch.randn(r, num_inputs, generator=draw), torch.randn(num_outputs, r, generator=draw)
    return Delta(module, a_RI, b_OR, scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [1, 3, 7])
def test_a_smaller_rank_is_the_truncated_decomposition_of_the_whole_update(shape: tuple[int, int, int], r: int):
    given = delta(*shape)
    whole_OI = given.scale * (given.b_OR.double() @ given.a_RI.double())
    u, sizes, vh = torch.linalg.svd(whole_OI, full_matrices=False)
    wanted_OI = (u[:, :r] * sizes[:r]) @ vh[:r]
    found, error = truncated(given, r)
    assert found.r == min(r, *shape[:2])
    assert (found.scale, found.a_RI.dtype, found.b_OR.dtype) == (2.0, torch.float32, torch.float32)
    torch.testing.assert_close(found.update().double(), wanted_OI, rtol=0, atol=1e-5 * float(sizes[0]))
    lost = torch.linalg.norm(whole_OI - wanted_OI) / torch.linalg.norm(whole_OI)
    assert error == pytest.approx(float(lost), abs=1e-6)


@pytest.mark.parametrize("r", [8, 9, 500])
def test_a_rank_that_is_large_enough_changes_nothing(r: int):
    given = delta(24, 16, 8)
    found, error = truncated(given, r)
    torch.testing.assert_close(found.update(), given.update(), rtol=0, atol=1e-6)
    assert (found.r, error) == (8, 0.0)


def test_what_has_a_smaller_rank_than_its_matrices_loses_nothing():
    thin = delta(24, 16, 2)
    given = Delta("layer", torch.cat([thin.a_RI] * 3), torch.cat([thin.b_OR] * 3, 1), 0.5)
    found, error = truncated(given, 2)
    torch.testing.assert_close(found.update(), given.update(), rtol=1e-5, atol=1e-5)
    assert error == pytest.approx(0, abs=1e-6)


def test_an_update_of_zeros_stays_one():
    given = delta(6, 5, 4)
    found, error = truncated(Delta("layer", given.a_RI, torch.zeros_like(given.b_OR), 1.0), 2)
    assert error == 0.0
    assert not found.update().any()


def test_every_layer_has_its_error():
    given = [delta(24, 16, 8, module="large"), delta(16, 16, 2, module="small")]
    updates, errors = reranked(given, 4)
    assert {name: update.r for name, update in updates.items()} == {"large": 4, "small": 2}
    assert errors["small"] == 0.0 < errors["large"] < 1.0


def test_ranks_and_scales_that_differ_become_one_and_the_products_stay():
    layers = (delta(24, 16, 8, 2.0, "a"), delta(16, 16, 3, 0.7, "b"), delta(9, 4, 1, 5.0, "c"))
    given = {each.module: each for each in layers}
    even = evened(given)
    assert (even.r, even.alpha) == (8, 8.0)
    for name, found in even.deltas.items():
        assert (found.r, found.scale) == (8, 1.0)
        torch.testing.assert_close(found.update(), given[name].update(), rtol=1e-6, atol=1e-5)


def test_one_rank_and_one_scale_are_left_alone():
    given = {name: delta(24, 16, 49, 8 / 49, name) for name in ("a", "b")}
    even = evened(given)
    assert all(even.deltas[name] is given[name] for name in given)
    assert (even.r, even.alpha) == (49, 8.0)


def test_the_scale_of_rank_stabilised_updates_is_an_alpha():
    even = evened({"a": delta(24, 16, 8, 16 / math.sqrt(8), "a")})
    assert even.alpha / even.r == pytest.approx(16 / math.sqrt(8), rel=1e-11)
