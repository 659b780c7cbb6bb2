"""A base that trains on two workers against one process alone: losses, norms, weights, the model, moves, bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.model.base.weights import Weights
from tests.contract.full_worker import BACK_ALONE, MOVES, NORM, UNDER, go_on_alone, see_alone
from tests.contract.strategy_group import LATE, Seen, run_group
from tests.contract.strategy_specs import STRATEGIES
from tests.unit.train.tiny_run import save_base, write_chats

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RUNS = [*UNDER, "fsdp-recomputed"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("full")
    save_base(folder / "base", intermediate_size=97)
    write_chats(folder / "rows.jsonl", 90)
    see_alone(folder)
    last_words = run_group(folder, program="tests.contract.full_worker", late=LATE)
    go_on_alone(folder)
    return Seen(folder, last_words)


@pytest.mark.parametrize("run", [*RUNS, "ddp-galore"])
def test_ten_steps_are_those_of_one_process(seen: Seen, run: str):
    together, alone = seen[run], seen["alone-galore" if run == "ddp-galore" else "alone"]
    assert together["num_tokens"] == alone["num_tokens"]
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)
    assert together["eval_before"] == pytest.approx(alone["eval_before"], abs=1e-4)
    assert together["eval_after"] == pytest.approx(alone["eval_after"], abs=1e-4)
    assert together["eval_after"] < together["eval_before"] - 0.2
    assert together["answers"] == alone["answers"] * 2


def test_clipping_was_put_to_the_test(seen: Seen):
    norms = seen["alone"]["grad_norm"]
    assert min(norms) < NORM < max(norms)


def test_galore_is_not_adamw(seen: Seen):
    assert seen["alone-galore"]["loss"] != pytest.approx(seen["alone"]["loss"], abs=1e-2)


@pytest.mark.parametrize("run", [*RUNS, "ddp-galore"])
def test_all_ranks_come_to_one_model_which_is_published(seen: Seen, run: str):
    together = seen[run]
    assert len(set(together["digests"])) == 1
    mine, alone = (Weights(Path(seen[name]["model"])) for name in (run, "alone-galore" if "galore" in run else "alone"))
    names = ["model.embed_tokens.weight", "model.layers.1.mlp.gate_proj.weight", "lm_head.weight", "model.norm.weight"]
    for name in names:
        torch.testing.assert_close(mine.read(name), alone.read(name), rtol=0, atol=2e-3)


@pytest.mark.parametrize("run", RUNS)
def test_each_rank_holds_its_share(seen: Seen, run: str):
    (whole,) = seen["alone"]["held_bytes"]
    held = seen[run]["held_bytes"]
    if run.startswith("fsdp"):
        assert sum(held) == whole
        assert held == pytest.approx([whole / 2] * 2, rel=0.01)
    else:
        assert held == [whole, whole]


@pytest.mark.parametrize("strategy", UNDER)
def test_nothing_is_updated_on_a_gradient_that_is_not_finite(seen: Seen, strategy: str):
    assert seen[f"{strategy}-infinite"]["norm"] in ("inf", "nan")
    assert seen[f"{strategy}-infinite"]["is_unchanged"]


@pytest.mark.parametrize("strategy", UNDER)
def test_the_next_run_begins_with_the_weights_of_the_files(seen: Seen, strategy: str):
    first, again = seen[f"{strategy}-again"]
    assert again == first
    assert first == pytest.approx(seen["alone"]["loss"][:3], abs=1e-4)


@pytest.mark.parametrize(("begun", "end"), [*MOVES, *BACK_ALONE])
def test_a_run_goes_on_under_another_strategy_and_with_more_or_fewer_workers(seen: Seen, begun: str, end: str):
    whole, moved = seen[begun], seen[f"{begun}-to-{end}"]
    assert moved["loss"] == pytest.approx(whole["loss"][5:], abs=1e-4)
    if begun == end:
        assert moved["loss"] == whole["loss"][5:]
        assert moved["digest"] == whole["digests"][0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_put_into_a_placed_parameter_is_there(seen: Seen, strategy: str):
    assert seen[f"{strategy}-filled"] == [True] * 3
