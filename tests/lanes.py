"""Which tests share a lane of pytest-xdist: those of a file, and all those of whole runs.

Whole runs are compared with each other and train on one Ray cluster; two of them at once would only wait for cores.
"""

from __future__ import annotations

from typing_extensions import override
from xdist.scheduler import LoadFileScheduling

WHOLE_RUNS = tuple(f"tests/cluster/test_{name}" for name in ("sweep", "train", "two_"))


class Lanes(LoadFileScheduling):
    """Hands out lanes as units of work, the largest first."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        return "whole runs" if nodeid.startswith(WHOLE_RUNS) else super()._split_scope(nodeid)
