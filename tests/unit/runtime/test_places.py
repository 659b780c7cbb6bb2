"""How many workers a cluster's nodes can hold."""

from __future__ import annotations

import pytest

from raylora.runtime.cluster import places
from raylora.runtime.growth import is_managed


@pytest.mark.parametrize(
    ("node", "needed", "expected"),
    [
        ({"CPU": 4.0}, {"CPU": 1.0}, 4),
        ({"CPU": 4.0}, {"CPU": 1.5}, 2),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}, 2),
        ({"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}, 0),
        ({"CPU": 8.0, "accelerator_type:H100": 1.0}, {"CPU": 1.0, "accelerator_type:H100": 0.001}, 8),
    ],
)
def test_a_node_holds_as_many_as_its_scarcest_resource_allows(
    node: dict[str, float], needed: dict[str, float], expected: int
):
    assert places(node, needed) == expected


def test_a_configured_node_type_is_told_from_an_observers_name():
    observed = {"ffff0": "node_ffff0", "ffff1": "node_ffff1"}
    assert not is_managed(observed)
    assert not is_managed({})
    assert is_managed({"10.0.0.1": "head"})
    assert is_managed(observed | {"10.0.0.2": "gpu"})
