"""`raylora sweep --plan` for this machine; it starts nothing, and leaves nothing. `test_train_resources` has nodes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.cluster.command import Command
from tests.cluster.made_sweeps import PLAN, only_group, whole

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_plan_for_this_machine_starts_no_ray(workplace: Path, tmp_path: Path):
    ended = Command(workplace, tmp_path).run(*PLAN)
    group = only_group(whole(ended))
    assert group["num_packs"] == max(1, min(4, len(psutil.Process().cpu_affinity() or ()) // 2))
    assert group["fits"] and 0 < group["bytes_per_worker"] < psutil.virtual_memory().total
    assert ended.left_behind == () and "Ray" not in ended.err
