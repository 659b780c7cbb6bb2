"""What a run or a trial comes to in this process, with the whole base and no Ray: whole runs are held against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from raylora.spec.run import RunSpec
from raylora.train.evaluate import evaluate
from raylora.train.member import Member
from tests.unit.train.pack_run import admit, events_of, place_tiny, train_all
from tests.unit.train.tiny_run import build_tiny, open_rows

SHORT = ("dtype=float32", "max_steps=4", "eval_steps=4")
"""Settings of a run that is done soon, in the precision in which losses are compared."""


def ended_as_alone(result: dict[str, Any], spec: RunSpec, cache: Path) -> None:
    """Assert that a run whose workers have the whole base each came to what it comes to here."""
    place, alone = spec.distributed, trained_alone(spec, cache)
    assert result["strategy"] == ("ddp" if place.strategy == "ddp" else f"zero{place.zero_stage}")
    assert result["eval_loss"] < result["eval_loss_before"]
    assert result["eval_loss"] == pytest.approx(alone.progress.eval_loss, abs=1e-5)
    assert (result["steps"], result["tokens"]) == (alone.progress.step, alone.progress.num_tokens)
    assert result["base_bytes_per_rank"] == [build_tiny(in_one_process(spec)).held_base_bytes] * result["num_workers"]


def in_one_process(spec: RunSpec) -> RunSpec:
    """The run with nothing sharded; its steps have the rows of all its workers."""
    return spec.model_copy(update={"distributed": spec.distributed.model_copy(update={"strategy": "ddp"})})


def curves_alone(specs: Sequence[RunSpec], cache: Path) -> list[dict[int, float]]:
    """Validation losses by step of runs that share a base, each trained to its end by itself."""
    trainee, curves = place_tiny(in_one_process(specs[0])), []
    for spec in specs:
        member = admit(trainee, 0, in_one_process(spec), cache)
        train_all(trainee, [member])
        trainee.release(0)
        curves.append({event.step: event.values["eval_loss"] for event in events_of(member, "eval")})
    return curves


def loss_alone(spec: RunSpec, adapter_uri: str, cache: Path) -> float:
    """Loss of a stored adapter on its validation rows, on a base that this process has to itself."""
    trainee = build_tiny(in_one_process(spec))
    trainee.bank.load(0, load_file(Path(adapter_uri) / "adapter_model.safetensors"))
    _, validation = open_rows(spec, cache)
    assert validation is not None
    return evaluate(trainee, {0: validation})[0]


def trained_alone(spec: RunSpec, cache: Path, max_tokens: int | None = None) -> Member:
    """The run at its end, in a pack of its own in this process."""
    spec = in_one_process(spec)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, cache, max_tokens=max_tokens)
    train_all(trainee, [member])
    return member
