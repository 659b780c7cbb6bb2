"""What the checks before a run refuse that no other test reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import ModelError
from raylora.runtime.preflight import preflight
from tests.unit.model.tiny import save_tiny, spec_of


def test_bins_are_refused_for_a_base_with_a_short_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    save_tiny(tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mistral"').replace("{", '{"sliding_window": 6,', 1))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    rows = [{"path": str(tmp_path / "rows.jsonl"), "type": "text"}]
    places = {"storage": {"uri": str(tmp_path / "store")}, "datasets": rows}
    spec = spec_of(tmp_path / "base", sample_packing=True, sequence_len=16, **places)
    with pytest.raises(ModelError, match=r"^sample_packing: .*sliding_window: 6.*Set sample_packing: false$"):
        preflight(spec)
