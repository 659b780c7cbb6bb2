"""What whoever watches a sweep is told while its workers start."""

from __future__ import annotations

from typing import Any

import pytest

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.launch import _Launch
from raylora.train.events import Event
from raylora.train.start_parts import LOADING

MEASURE = "workers measure how many slots are fastest"


@pytest.mark.parametrize(
    ("fields", "doing"),
    [({}, MEASURE), ({"slots": 2}, "training"), ({"repeats": 2}, MEASURE)],
)
def test_workers_measure_slots_only_where_nobody_said_how_many(fields: dict[str, Any], doing: str) -> None:
    run = {"base_model": "m", "datasets": [{"path": "d.jsonl"}], "val_set_size": 4, "max_steps": 6}
    space = {"lora_r": {"choice": [4, 8]}}
    told: list[str] = []
    spec = SweepSpec.model_validate({"run": run, "space": space, "searcher": "grid"} | fields)
    launch = _Launch(spec, None, lambda standing: told.append(standing.doing))
    launch._hear(0, Event("phase", 0, {"name": LOADING[-1], "seconds": 2.0}))
    assert told == [doing]
