from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from raylora.tracking.loss_picture import TRAIN, VALIDATION, draw_losses, running_mean

LOSSES = st.lists(st.floats(0, 100), min_size=1, max_size=50)


def pixels_of(path: Path, colour: str) -> int:
    image = matplotlib.image.imread(path)[..., :3]
    return int((np.abs(image - np.array(to_rgb(colour))).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize("train", [[], [(step, 3.0 / step) for step in range(1, 50)], [(1, math.nan), (2, 2.0)]])
@pytest.mark.parametrize("validation", [[], [(0, 3.0)], [(0, 3.0), (25, math.inf), (50, 1.0)]])
def test_the_picture_shows_the_lines_there_are(tmp_path: Path, train: list, validation: list):
    path = tmp_path / "loss.png"
    draw_losses(train, validation, "title", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    finite = [loss for _, loss in train if math.isfinite(loss)]
    assert (pixels_of(path, TRAIN) > 20) == bool(finite)
    assert (pixels_of(path, VALIDATION) > 20) == bool(validation)


@given(LOSSES)
def test_the_running_mean_starts_at_the_first_loss_and_stays_among_them(losses: list[float]):
    means = running_mean(losses)
    assert means[0] == pytest.approx(losses[0])
    assert all(min(losses) - 1e-9 <= mean <= max(losses) + 1e-9 for mean in means)


@given(LOSSES, st.floats(0.01, 1.0))
def test_the_running_mean_is_the_weighted_mean_of_all_before(losses: list[float], share: float):
    weights = (1 - share) ** np.arange(len(losses))[::-1]
    assert running_mean(losses, share)[-1] == pytest.approx(np.average(losses, weights=weights), abs=1e-9)
