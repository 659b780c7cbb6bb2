"""Which tests share a lane of pytest-xdist: those of a file, all of whole runs, of whole sweeps, of groups of ranks.

Whole runs are compared with each other and train on one Ray cluster, and so are whole sweeps. They start processes, one
after the other, for most of their time, and leave a core to a third lane. Groups of ranks are forked from one process,
which takes ten seconds of a core to start (`tests/contract/forked.py`).
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override
from xdist.scheduler import LoadFileScheduling

WHOLE = {
    "whole runs": ("tests/cluster/test_train", "tests/cluster/test_two_nodes"),
    "whole sweeps": ("tests/cluster/test_sweep", "tests/cluster/test_two_sweeps", "tests/cluster/test_other_methods"),
    "groups of ranks": (
        *(f"tests/contract/test_{name}.py" for name in ("full", "master", "pack", "peft_types", "seq2seq", "strategy")),
        *(f"tests/unit/runtime/test_{name}.py" for name in ("evening", "inputs", "same_checkpoint")),
        "tests/unit/train/test_estimate_measured.py",
    ),
}
LONG = tuple(f"tests/{folder}/" for folder in ("cluster", "contract", "reference", "unit/train"))
"""Few tests of many seconds: one that came last would leave the other lane with nothing to do."""


class Lanes(LoadFileScheduling):
    """Hands out lanes as units of work: whole runs and sweeps, files of long tests, the others; the largest first."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        lanes = (lane for lane, files in WHOLE.items() if nodeid.startswith(files))
        return next(lanes, super()._split_scope(nodeid))

    @override
    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(max(self.workqueue, key=self._weight), last=False)
        super()._assign_work_unit(node)

    def _weight(self, scope: str) -> tuple[bool, bool, int]:
        return scope in WHOLE, scope.startswith(LONG), len(self.workqueue[scope])
