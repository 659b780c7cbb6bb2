"""Which runs of a pack are saved though no trial asks for it: by a clock, and by a wish in the workers' own mailbox."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raylora.runtime.cluster.desk_messages import Save
from raylora.runtime.cluster.mailbox import Mailbox
from raylora.runtime.pack import own_saves
from raylora.runtime.pack.own_saves import SAVE_S, OwnSaves
from raylora.spec.run import RunSpec
from tests.unit.runtime.handles import Handle

RUN = {"base_model": "base", "datasets": [{"path": "rows.jsonl"}]}
SPECS = {
    "first": RunSpec.model_validate(RUN),
    "second": RunSpec.model_validate(RUN | {"save_steps": 10}),
    "third": RunSpec.model_validate(RUN),
}
OF_ALL, OF_THOSE_WITHOUT = (
    [Save(lease, is_awaited=False) for lease in leases] for leases in (SPECS, ("first", "third"))
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(own_saves, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(own_saves, "ray", SimpleNamespace(get=asyncio.run))
    return clock


def test_runs_without_saves_of_their_own_are_saved_when_it_is_time(clock: SimpleNamespace):
    saves = OwnSaves(cast("Any", Handle(Mailbox())))
    clock.now_s += SAVE_S - 1
    assert saves.due(SPECS) == []
    clock.now_s += 1
    assert saves.due(SPECS) == OF_THOSE_WITHOUT
    clock.now_s += SAVE_S - 1
    assert saves.due(SPECS) == [], "it is counted from the last time"


def test_all_runs_are_saved_once_where_a_node_is_announced_to_go(clock: SimpleNamespace):
    mailbox = Mailbox()
    saves = OwnSaves(cast("Any", Handle(mailbox)))
    assert saves.due(SPECS) == []
    asyncio.run(mailbox.ask_save())
    assert saves.due(SPECS) == OF_ALL
    assert saves.due(SPECS) == []
