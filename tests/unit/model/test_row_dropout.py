"""What stands in the place of a base's dropout: how much it drops, whose draws are whose, what is kept whole."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from raylora.model.rows.route import NOBODY, Route, Span
from raylora.model.rows.row_dropout import RowDropout, draw_by_rows

ROWS = ((3, 40), (9, 60))
SEEDS = {0: 5, 1: 6}


def span(slot: int, step: int = 0, rows: tuple[tuple[int, int], ...] = ROWS) -> Span:
    return Span(slot, sum(number for _, number in rows), step, rows)


def dropped(*spans: Span, p: float = 0.25, name: str = "layer") -> Tensor:
    """What is left of ones."""
    route = Route(spans, seeds=dict(SEEDS))
    num_tokens = sum(each.num_tokens or 0 for each in spans)
    left: Tensor = RowDropout(name, p, route)(torch.ones(1, num_tokens, 64))
    return left[0]


def test_it_drops_as_much_as_it_is_told_and_keeps_the_mean():
    left = dropped(span(0))
    assert set(left.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((left == 0).float().mean().item() - 0.25) < 0.03
    assert torch.equal(dropped(span(0), p=0.0), torch.ones(100, 64))


def test_a_rows_draw_is_of_its_slot_step_layer_and_number_alone():
    alone = dropped(span(0))
    together = dropped(span(1), span(0))
    assert torch.equal(together[100:], alone)
    assert torch.equal(dropped(span(0, rows=ROWS[1:])), alone[40:])
    for other in (together[:100], dropped(span(0, step=1)), dropped(span(0), name="other")):
        assert not torch.equal(other, alone)


def test_a_head_that_drops_twice_draws_twice_and_the_same_in_the_next_pass():
    route = Route((span(0),), seeds=dict(SEEDS), num_draws=Counter())
    drop = RowDropout("head.dropout", 0.25, route)
    first, second = (drop(torch.ones(1, 100, 64))[0] for _ in range(2))
    assert torch.equal(first, dropped(span(0), name="head.dropout"))
    assert not torch.equal(first, second)
    route.begin((span(0),))
    assert torch.equal(drop(torch.ones(1, 100, 64))[0], first)


def test_of_nobody_nothing_is_dropped():
    assert dropped(span(NOBODY)).all()
    of_weights = RowDropout("layer", 0.5, Route((span(NOBODY), span(0)), seeds=dict(SEEDS))).of_rows(4)
    weights = torch.ones(2, 30, 30)
    left = [drop(weights) for drop in of_weights]
    assert torch.equal(left[0], weights) and torch.equal(left[1], weights)
    assert all(abs((each == 0).float().mean().item() - 0.5) < 0.05 for each in left[2:])
    assert not torch.equal(left[2], left[3])


def test_behind_a_pooler_there_is_one_input_of_each_row():
    route = Route((span(0), span(1)), seeds=dict(SEEDS))
    drop = RowDropout("pooled", 0.5, route)
    both: Tensor = drop(torch.ones(4, 64))
    route.spans = (span(1),)
    assert torch.equal(drop(torch.ones(2, 64)), both[2:])


def test_every_dropout_inside_is_replaced_and_all_of_them_draw_otherwise():
    model = nn.Sequential(nn.Dropout(0.5), nn.ModuleDict({"inner": nn.Dropout(0.5)}))
    draw_by_rows(model, "", Route((span(0),), seeds=dict(SEEDS)))
    ones = torch.ones(1, 100, 64)
    first, second = model[0](ones), model[1]["inner"](ones)
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()[0](ones), ones)
