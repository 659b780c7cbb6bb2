"""A pack over a base that trains one adapter at a time offers one slot, and tries no wider one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from raylora.runtime.inputs import Inputs
from raylora.runtime.mailbox import PackJob
from raylora.runtime.pack_width import pack_width
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.pack_run import place_tiny
from tests.unit.train.tiny_run import tiny_spec, write_chats


@pytest.mark.parametrize("calibrates", [True, False])
def test_a_base_with_padded_lines_offers_one_slot(tmp_path: Path, calibrates: bool):
    torch.manual_seed(0)
    shape = {"vocab_size": len(small_tokenizer()), "hidden_size": 32, "n_layer": 2, "n_head": 4}
    BloomForCausalLM(BloomConfig(**shape)).save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    spec = tiny_spec(tmp_path / "base", write_chats(tmp_path / "rows.jsonl", 20))
    desk = cast("Any", None)  # it is not asked
    job = PackJob(
        0, "key", 8, spec, str(tmp_path), desk, report_steps=1, slots_stay_on_ranks=False, calibrates=calibrates
    )
    trainee = place_tiny(spec)
    assert pack_width(job, trainee, cast("Inputs", None)) == 1  # nor are there rows to try widths with
    assert not trainee.steppers
