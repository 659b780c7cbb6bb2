"""Which runs of a pack are saved by time."""

from __future__ import annotations

from raylora.runtime.desk_messages import Save
from raylora.runtime.timed_saves import SAVE_S, timed_saves
from raylora.spec.run import RunSpec

RUN = {"base_model": "base", "datasets": [{"path": "rows.jsonl"}]}
SPECS = {
    "first": RunSpec.model_validate(RUN),
    "second": RunSpec.model_validate(RUN | {"save_steps": 10}),
    "third": RunSpec.model_validate(RUN),
}


def test_runs_without_saves_of_their_own_are_saved_when_it_is_time():
    assert timed_saves(SPECS, SAVE_S) == [Save("first", is_awaited=False), Save("third", is_awaited=False)]


def test_before_that_nothing_is_saved():
    assert timed_saves(SPECS, SAVE_S - 1) == []
