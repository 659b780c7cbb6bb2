"""A pack without a cluster: its job, a tiny base, and a mailbox that nobody empties."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from raylora.runtime.cluster.mailbox import PackJob
from raylora.runtime.pack.pack import Pack
from raylora.spec.run import RunSpec
from raylora.store.fence import Fence
from raylora.train.events import Event
from tests.unit.train.pack_run import place_tiny


class Post:
    """A mailbox that nobody empties."""

    def __init__(self) -> None:
        self.put, self.events = self, list[Event]()

    def remote(self, event: Event) -> None:
        self.events.append(event)


def open_pack(spec: RunSpec, post: Post, folder: Path, num_slots: int = 1, slots_stay_on_ranks: bool = False) -> Pack:
    desk = cast("Any", None)  # it is not asked
    job = PackJob(
        *(0, "key", num_slots, spec, str(folder / "store"), Fence(str(folder / "store"), 1, "s1"), desk, 1),
        slots_stay_on_ranks=slots_stay_on_ranks,
        calibrates=False,
    )
    return Pack(job, cast("Any", post), place_tiny(spec, slots_stay_on_ranks))
