"""Which groups of workers have their room, told by what they asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raylora.runtime.cluster import gangs
from raylora.runtime.cluster.gangs import Gang, gang_of, waits_for_places, without_places
from tests.unit.model.tiny import spec_of

THIRD = {"CPU": 1 / 3}
ONE, TWO, ELASTIC = Gang({"CPU": 1.0}, 1, 1), Gang({"CPU": 1.0}, 2, 2), Gang({"CPU": 1.0}, 1, 2)


def there(monkeypatch: pytest.MonkeyPatch, state: str, *groups: list[dict[str, float]], job: str = "01") -> None:
    """Placement groups of one job, all in one state; ours is job 01."""
    table = {
        f"{number}-{job}": {"state": state, "bundles": dict(enumerate(bundles))}
        for number, bundles in enumerate(groups)
    }
    context = SimpleNamespace(get_job_id=lambda: "01")
    monkeypatch.setattr(gangs, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    monkeypatch.setattr(gangs, "placement_group_table", lambda: table)


@pytest.mark.parametrize(
    ("placed", "asked", "lacking"),
    [
        ([[{"CPU": 1.0}]], {0: ONE}, []),
        ([[{"CPU": 1.0}]], {0: ONE, 1: ONE}, [1]),
        ([[{"CPU": 1.0}]], {0: TWO}, [0]),
        ([[{"CPU": 1.0, "GPU": 1.0}]], {0: ONE}, [0]),
        ([[{"CPU": 1.0}], [{"CPU": 1.0}] * 2], {0: ELASTIC, 1: ONE}, []),
        ([[{"CPU": 1.0}]], {0: ELASTIC}, []),
        ([[{"CPU": 0.3333}]], {0: Gang(THIRD, 1, 1)}, []),
    ],
    ids=["its own", "one of two", "smaller", "with a GPU", "any size", "shrunk", "rounded"],
)
def test_a_group_has_its_room_where_one_like_it_is_placed(
    monkeypatch: pytest.MonkeyPatch, placed: list[Any], asked: dict[int, Gang], lacking: list[int]
) -> None:
    there(monkeypatch, "CREATED", *placed)
    assert without_places(asked) == lacking
    assert not any(map(waits_for_places, asked.values()))
    there(monkeypatch, "CREATED", *placed, job="02")
    assert sorted(without_places(asked)) == sorted(asked), "a stranger's"
    there(monkeypatch, "PENDING", *placed)
    assert sorted(without_places(asked)) == sorted(asked)


@pytest.mark.parametrize(("alive", "could_be"), [([2.0, 2.0], True), ([2.0], False), ([], False)])
def test_a_group_could_be_where_enough_nodes_are_left(
    monkeypatch: pytest.MonkeyPatch, alive: list[float], could_be: bool
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": cores}} for cores in alive]
    lost = {"Alive": False, "Resources": {"CPU": 64.0}}
    monkeypatch.setattr(gangs, "ray", SimpleNamespace(nodes=lambda: [*nodes, lost]))
    place = {"num_workers": 4, "min_workers": 3, "cpus_per_worker": 1, "gpus_per_worker": 0}
    gang = gang_of(spec_of("base", distributed=place))
    assert (gang.needed, gang.fewest, gang.most) == ({"CPU": 1.0}, 3, 4)
    assert gang.could_be() is could_be
