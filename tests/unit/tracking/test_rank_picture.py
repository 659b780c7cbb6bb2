from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from raylora.tracking.rank_picture import _place, draw_ranks

RANKS = {f"model.layers.{layer}.{kind}": layer for layer in range(3) for kind in ("self_attn.q_proj", "mlp.down_proj")}


@pytest.mark.parametrize(
    "ranks", [RANKS, {"proj": 0}, {f"layers.{n}.{k}": n % 9 for n in range(60) for k in "abcdefgh"}], ids=len
)
def test_a_picture_is_drawn(tmp_path: Path, ranks: dict[str, int]):
    draw_ranks(ranks, "title", tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_other_ranks_are_another_picture(tmp_path: Path):
    for name, ranks in {"one": RANKS, "same": RANKS, "other": RANKS | {"model.layers.0.mlp.down_proj": 2}}.items():
        draw_ranks(ranks, "title", tmp_path / f"{name}.png")
    one, same, other = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "same", "other"))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.12.self_attn.q_proj", (12, "self_attn.q_proj")),
        ("model.layers.3.mlp.experts.5.w1", (3, "mlp.experts.5.w1")),
        ("head", (0, "head")),
    ],
)
def test_a_module_has_its_layers_row_and_its_kinds_column(name: str, place: tuple[int, str]):
    assert _place(name) == place
