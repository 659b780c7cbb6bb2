"""The strategies that no other test of whole runs has, on two Ray Train workers: one configuration, one loss."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.command import Command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = ("dtype=float32", "max_steps=4", "eval_steps=4", "sample_prompts=[]", "save_steps=null")
STRATEGIES = {
    "ddp": ("distributed.strategy=ddp",),
    "zero1": ("distributed.strategy=deepspeed", "distributed.zero_stage=1"),
    "zero2": ("distributed.strategy=deepspeed", "distributed.zero_stage=2"),
}


def test_ddp_and_the_lower_stages_of_zero_train_alike(on_head: Command):
    results: dict[str, dict[str, Any]] = {}
    for name, words in STRATEGIES.items():
        overrides = [part for word in SHORT + words for part in ("--set", word)]
        ended = on_head.run("train", "run.yaml", "--json", *overrides)
        assert ended.code == 0, ended.err
        results[name] = ended.json
    assert {name: result["strategy"] for name, result in results.items()} == {name: name for name in STRATEGIES}
    for result in results.values():
        assert result["eval_loss"] == pytest.approx(results["ddp"]["eval_loss"], abs=1e-4)
        assert result["eval_loss"] < result["eval_loss_before"]
        # Nothing of the base is sharded: each rank has all of it.
        assert result["base_bytes_per_rank"] == results["ddp"]["base_bytes_per_rank"]
