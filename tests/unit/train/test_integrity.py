"""A base that was written to is found out, whichever way it is held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.errors import RunFailedError
from raylora.train.integrity import check_unchanged, checksum
from tests.unit.train.pack_run import place_tiny
from tests.unit.train.tiny_run import save_materials, tiny_spec


@pytest.mark.parametrize("fields", [{}, {"load_in_4bit": True}], ids=["float32", "nf4"])
def test_one_changed_value_of_the_base_is_found(tmp_path: Path, fields: dict[str, object]):
    home = save_materials(tmp_path, 4)
    trainee = place_tiny(tiny_spec(home / "base", home / "rows.jsonl", **fields))
    before = checksum(trainee)
    check_unchanged(trainee, before)
    with torch.no_grad():
        trainee.strategy.local(trainee.frozen[-1]).view(-1)[:1].mul_(2).add_(1)
    with pytest.raises(RunFailedError, match="1 parameters of the frozen base changed on rank 0"):
        check_unchanged(trainee, before)
