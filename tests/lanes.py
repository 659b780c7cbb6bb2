"""Which tests share a lane of pytest-xdist: those of a file, and all those of whole runs.

Whole runs are compared with each other and train on one Ray cluster; two of them at once would only wait for cores.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override
from xdist.scheduler import LoadFileScheduling

WHOLE_RUNS = tuple(f"tests/cluster/test_{name}" for name in ("sweep", "train", "two_"))
LONG = tuple(f"tests/{folder}/" for folder in ("cluster", "contract", "reference", "unit/train"))
"""Few tests of many seconds: one that came last would leave the other lane with nothing to do."""


class Lanes(LoadFileScheduling):
    """Hands out lanes as units of work: whole runs, files of long tests, then the others, the largest of each first."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        return "whole runs" if nodeid.startswith(WHOLE_RUNS) else super()._split_scope(nodeid)

    @override
    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(max(self.workqueue, key=self._weight), last=False)
        super()._assign_work_unit(node)

    def _weight(self, scope: str) -> tuple[bool, bool, int]:
        return scope == "whole runs", scope.startswith(LONG), len(self.workqueue[scope])
