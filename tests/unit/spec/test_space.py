"""What a searcher draws becomes the fields of a trial, whatever the space."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.errors import InputError
from raylora.spec.fields.knobs import AnyKnob, Choice, Integer, LogUniform, Ratio, Uniform, clip
from raylora.spec.sweeps.space import configurations, resolve

SWITCH = Choice(choice=("a", "b", ("q_proj", "v_proj")))
SPACE: dict[str, AnyKnob] = {
    "late": Ratio(ratio=0.5, of="bound"),
    "switch": SWITCH,
    "rank": Integer(int=(1, 64)),
    "alpha": Ratio(ratio=2, of="rank"),
    "bound": Uniform(uniform=(0, 1), when={"switch": ["q_proj", "v_proj"]}),
    "deep": Choice(choice=(1, 2), when={"flag": True}),
    "flag": Choice(choice=(True, False), when={"switch": "b"}),
    "rate": LogUniform(loguniform=(1e-5, 1e-3)),
    "_both": Choice(choice=({"x": 1, "y": 2}, {"x": 3, "y": 4})),
}

draws = st.fixed_dictionaries(
    {
        "switch": st.sampled_from(["a", "b", '["q_proj", "v_proj"]', ["q_proj", "v_proj"], ("q_proj", "v_proj")]),
        "rank": st.integers(1, 64),
        "bound": st.floats(0, 1),
        "deep": st.sampled_from([1, 2]),
        "flag": st.booleans(),
        "rate": st.floats(1e-5, 1e-3),
        "_both": st.sampled_from([*SPACE["_both"].options, {"y": 4, "x": 3}]),  # type: ignore[union-attr]
    }
)


@given(sampled=draws)
def test_a_drawn_configuration_says_every_field_that_applies(sampled: dict[str, Any]):
    found = resolve(SPACE, sampled)
    targets = sampled["switch"] not in ("a", "b")
    is_b = sampled["switch"] == "b"
    assert found["switch"] == (("q_proj", "v_proj") if targets else sampled["switch"])
    assert found["alpha"] == 2 * found["rank"] == 2 * sampled["rank"]
    assert found["rate"] == sampled["rate"]
    assert (found["x"], found["y"]) in ((1, 2), (3, 4))
    assert ("bound" in found, "late" in found) == (targets, targets)
    assert not targets or found["late"] == 0.5 * found["bound"]
    assert ("flag" in found, "deep" in found) == (is_b, is_b and sampled["flag"])
    assert "_both" not in found


@given(sampled=draws, order=st.permutations(list(SPACE)))
def test_the_order_of_knobs_does_not_matter(sampled: dict[str, Any], order: list[str]):
    assert resolve({name: SPACE[name] for name in order}, sampled) == resolve(SPACE, sampled)


@given(sampled=draws)
def test_what_does_not_apply_need_not_be_drawn(sampled: dict[str, Any]):
    found = resolve(SPACE, sampled)
    needed = {name: value for name, value in sampled.items() if name in found or name == "_both"}
    assert resolve(SPACE, needed) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": None}, "nothing was drawn for rank"),
        ({"switch": "c"}, "switch: got 'c'; allowed: a, b, "),
        ({"alpha": 3}, "alpha is no knob to draw"),
        ({"other": 3}, "other is no knob to draw"),
    ],
)
def test_what_was_not_drawn_from_the_space_is_told(change: dict[str, Any], words: str):
    sampled = {"switch": "a", "rank": 3, "rate": 1e-4, "_both": {"x": 1, "y": 2}} | change
    with pytest.raises(InputError, match=words):
        resolve(SPACE, {name: value for name, value in sampled.items() if value is not None})


def test_true_is_not_one():
    knob = Choice(choice=(True, 2))
    assert knob.value(True) is True
    with pytest.raises(ValueError, match="allowed: True, 2"):
        knob.value(1)


def test_a_grid_draws_each_configuration_once_with_the_last_knob_fastest():
    space: dict[str, AnyKnob] = {
        "kind": Choice(choice=("a", "b")),
        "double": Ratio(ratio=2, of="size"),
        "size": Integer(int=(1, 3), when={"kind": "b"}),
    }
    assert [resolve(space, sampled) for sampled in configurations(space)] == [
        {"kind": "a"},
        {"kind": "b", "double": 2, "size": 1},
        {"kind": "b", "double": 4, "size": 2},
        {"kind": "b", "double": 6, "size": 3},
    ]


def test_a_grid_is_drawn_while_it_is_asked_for_and_conditions_come_first():
    space: dict[str, AnyKnob] = {
        "size": Integer(int=(1, 10**12), when={"kind": "b"}),
        "kind": Choice(choice=("a", "b")),
    }
    grid = configurations(space)
    assert [next(grid) for _ in range(3)] == [{"kind": "a"}, {"kind": "b", "size": 1}, {"kind": "b", "size": 2}]


def test_a_grid_refuses_a_range_without_end():
    with pytest.raises(InputError, match="finite"):
        list(configurations({"x": Uniform(uniform=(0, 1))}))


@given(value=st.floats(-10, 10))
def test_a_clipped_value_is_in_its_range(value: float):
    assert clip(Uniform(uniform=(0, 1)), value) == min(max(value, 0), 1)
    assert clip(SWITCH, value) == value
