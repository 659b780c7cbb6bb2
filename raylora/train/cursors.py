"""Where a run stands in what its step alone decides: the schedule, the seeds, the order of rows.

A run and a step enter; what a checkpoint notes of them leaves, or an error where a run that goes on finds otherwise.
None of it is read to go on: it is computed again (decision 15). It tells a raylora that computes otherwise, or rows
in another order, before a step is taken with them. Called by a member.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from raylora.data.batches import Batches
from raylora.errors import StoreError
from raylora.model.rows.seed import stable_seed
from raylora.spec.run import RunSpec
from raylora.store.checkpoint import Checkpoint
from raylora.train.schedule import learning_rate, num_warmup_steps

CURSORS = "cursors"
"""Their name in a checkpoint's state."""

REL, ABS = 1e-9, 1e-18
"""Two machines' cosines may differ in the last bit."""

Cursors = dict[str, dict[str, dict[str, Any]]]
"""By name: what it is a function ``of``, beside base and data, and what it comes to ``at`` the step that is next."""


def cursors(spec: RunSpec, rows: Batches, step: int, num_steps: int) -> Cursors:
    """Where a run stands; the same on every rank and for any number of them.

    Args:
        spec: The run.
        rows: Its training rows.
        step: Optimizer steps done, from 0.
        num_steps: Of the whole run.

    Returns:
        ``schedule``, ``rng`` (of the first micro-batch on rank 0) and ``data``, as JSON. No row comes after the last
        step.
    """
    order = {"seed": spec.seed, "rows_per_step": spec.rows_per_step, "num_steps": num_steps}
    shape = {
        "lr_scheduler": spec.lr_scheduler,
        "learning_rate": spec.learning_rate,
        "num_warmup_steps": num_warmup_steps(spec, num_steps),
        "decay_ratio": spec.decay_ratio,
        "num_steps": num_steps,
    }
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "schedule": (shape, {"learning_rate": learning_rate(spec, step, num_steps)}),
        "rng": ({"seed": spec.seed}, {"generator_seed": stable_seed("step", spec.seed, step, 0, 0)}),
        "data": (order, {} if step >= num_steps else _next_rows(rows, step)),
    }
    return {name: {"of": of, "at": {"step": step, **at}} for name, (of, at) in found.items()}


def check_cursors(checkpoint: Checkpoint, here: Cursors) -> None:
    """Find out that a run which goes on from a checkpoint would go on as the one that wrote it.

    What is a function of something else here is not compared: another trial's weights were taken, whose learning rate
    was another. One that was written before there were cursors has none.

    Args:
        checkpoint: It goes on from.
        here: Of its step, as this run has them.

    Raises:
        StoreError: It would not.
    """
    saved: Cursors = checkpoint.state.get(CURSORS, {})
    for name, cursor in here.items():
        noted = saved.get(name)
        if noted is not None and noted["of"] == cursor["of"] and not _same(noted["at"], cursor["at"]):
            raise StoreError(
                f"checkpoint of step {checkpoint.step}: its {name} cursor is {noted['at']}, this run's is "
                f"{cursor['at']}: this raylora or its packages compute it otherwise; resume with those that wrote it, "
                "or start a new run"
            )


def _next_rows(rows: Batches, step: int) -> dict[str, Any]:
    epoch, offset = rows.locate(step)
    ids = rows.rows_of(step).astype("<i8").tobytes()
    return {"epoch": epoch, "step_of_epoch": offset, "rows_sha256": hashlib.sha256(ids).hexdigest()}


def _same(noted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return noted.keys() == found.keys() and all(_equal(noted[name], value) for name, value in found.items())


def _equal(noted: Any, found: Any) -> bool:
    if isinstance(noted, float) and isinstance(found, float):
        return math.isclose(noted, found, rel_tol=REL, abs_tol=ABS)
    return bool(noted == found)
