"""Sweeps as YAML text: parts of them, and what loading gives or refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from raylora.errors import SpecError
from raylora.spec.sweeps.load import LoadedSweep, load_sweep

RUN = "run: {base_model: org/model, datasets: [{path: rows.jsonl}], val_set_size: 0.1, max_steps: 50}\n"
REST = "num_trials: 4\nspace:\n  lora_r: {choice: [4, 8]}\n"


def load_text(folder: Path, text: str, overrides: Sequence[str] = ()) -> LoadedSweep:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path, overrides)


def problems_of(folder: Path, text: str, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(folder, text, overrides)
    return [str(problem) for problem in caught.value.problems]
