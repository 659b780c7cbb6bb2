"""A spectrogram transformer on vowels against transformers' model with PEFT's adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.head_oracle import check_ten_steps
from tests.reference.peft_steps import BASES, SETTINGS
from tests.unit.train.tiny_audio import audio_spec, save_recordings


@pytest.mark.parametrize("base", BASES)
def test_ten_steps_are_those_of_transformers_model_with_pefts_adapter(base: str, tmp_path: Path):
    home = save_recordings(tmp_path)
    (tmp_path / "out").mkdir()
    check_ten_steps(audio_spec(home, **SETTINGS, **BASES[base]), home, tmp_path / "out")
