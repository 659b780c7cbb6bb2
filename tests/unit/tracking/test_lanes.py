"""What the lanes say at their end of what MLflow has not taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.tracking.entries import metrics_entry, tags_entry
from raylora.tracking.lanes import Lanes
from tests.unit.store.disks import mounted


def test_what_neither_mlflow_nor_the_disk_took_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with mounted(tmp_path / "disk", 16 << 10) as disk:
        lanes = Lanes("http://127.0.0.1:1", "no-run", disk / "spool", "raylora resume r1")
        lanes.put_value(metrics_entry(1, {"loss": 1.0}))
        lanes.put_value(tags_entry({str(n): "x" * 8000 for n in range(4)}))
        lanes.put_value(metrics_entry(2, {"loss": 1.0}))
        assert lanes.close(0.2) == {"metrics": 3}
    assert f"MLflow did not take 1 entries of metrics; they are kept in {disk / 'spool'}" in caplog.text
    assert f"2 entries of metrics are lost: MLflow did not take them, and {disk / 'spool'} had no room" in caplog.text
