"""What a run or a trial comes to in this process, with the whole base and no Ray: whole runs are held against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from raylora.spec.run import RunSpec
from raylora.train.evaluate import evaluate
from raylora.train.member import Member
from tests.unit.train.pack_run import admit, events_of, place_tiny, train_all
from tests.unit.train.tiny_run import build_tiny, open_rows

SHORT = ("max_steps=4", "eval_steps=4")
"""Settings of a run that is done soon."""

APART = 1e-4
"""How far losses of one run in float32 may lie apart where other workers, or one process, computed them.

Only the order of sums differs: masks of dropout are drawn by seed, step and row, and NF4 blocks are packed before a
base is sharded, so that each rank unpacks the values of a single process. In float32 that is an error of about 1e-6 of
a gradient, hence of the ratio of moments in AdamW, and at a learning rate of 5e-3 one of 5e-9 of each value in a step.
Over 60 steps and the 22,000 values of an adapter it is a vector of length 60 * 5e-9 * sqrt(22000) = 4e-5, if all errors
go one way; the loss, whose gradient has a norm near 1, moves by as much.
"""


def ended_as_alone(result: dict[str, Any], spec: RunSpec, cache: Path) -> None:
    """Assert that a run whose workers have the whole base each came to what it comes to here."""
    place, alone = spec.distributed, trained_alone(spec, cache)
    assert result["strategy"] == ("ddp" if place.strategy == "ddp" else f"zero{place.zero_stage}")
    assert result["base_bytes_per_rank"] == [build_tiny(in_one_process(spec)).held_base_bytes] * result["num_workers"]
    came_to(alone, result, apart=1e-5)


def came_to(alone: Member, result: dict[str, Any], apart: float = APART) -> None:
    """Assert that a run came to what it comes to here, and took as many tokens."""
    progress = alone.progress
    assert result["eval_loss"] < result["eval_loss_before"]
    assert result["eval_loss"] == pytest.approx(progress.eval_loss, abs=apart)
    assert (result["steps"], result["tokens"]) == (progress.step, progress.num_tokens)


def told_of(alone: Member, mlflow: MlflowClient, mlflow_run_id: str, since: int = 0) -> None:
    """Assert that MLflow has each step of a run once, with the loss that it has here and the very learning rate.

    Args:
        alone: The run in this process.
        mlflow: Where the other one was told of.
        mlflow_run_id: Its run there.
        since: Steps before that are not looked at.
    """
    steps = [event for event in events_of(alone, "step") if event.step > since]
    for name, apart in (("train_loss", APART), ("learning_rate", 0.0)):
        told = [point for point in mlflow.get_metric_history(mlflow_run_id, name) if point.step > since]
        assert [point.step for point in told] == [event.step for event in steps], name
        wanted = [event.values[name] for event in steps]
        assert [point.value for point in told] == pytest.approx(wanted, rel=0.0, abs=apart), name


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
    return evaluate(trainee, {0: validation})[0].loss


def trained_alone(spec: RunSpec, cache: Path, max_tokens: int | None = None) -> Member:
    """The run at its end, in a pack of its own in this process."""
    spec = in_one_process(spec)
    trainee = place_tiny(spec)
    member = admit(trainee, 0, spec, cache, max_tokens=max_tokens)
    train_all(trainee, [member])
    return member
