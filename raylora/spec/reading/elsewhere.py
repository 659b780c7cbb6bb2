"""A run that goes on elsewhere: its recorded specification on other workers, with the same rows in every step.

The launcher calls it when a run is resumed with `--set`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from raylora.errors import Problem, SpecError
from raylora.spec.reading.check import check
from raylora.spec.reading.draft import Draft
from raylora.spec.reading.overrides import apply_override
from raylora.spec.run import RunSpec

MAY_CHANGE = ("distributed", "ray")
"""What a run may change half-way: where it happens, not what it computes."""


def elsewhere(recorded: Mapping[str, Any], overrides: Sequence[str]) -> RunSpec:
    """Return a recorded run with some of its places changed.

    Accumulation makes up for another number of workers, so that every step still takes `rows_per_step` rows.

    Args:
        recorded: The run's resolved specification as JSON.
        overrides: `key=value` words of `--set` under `distributed` or `ray`.

    Raises:
        SpecError: A key that changes the training, a wrong value, or workers that cannot share a step's rows evenly.
    """
    before = RunSpec.model_validate(recorded)
    draft = Draft(deepcopy(dict(recorded)))
    for override in overrides:
        key = override.partition("=")[0].strip()
        if "=" in override and key.split(".")[0] not in MAY_CHANGE:
            allowed = " and ".join(f"{section}.*" for section in MAY_CHANGE)
            draft.problems.append(
                Problem(key, f"a run keeps it from its first step on; allowed: {allowed}; or start a new run")
            )
        apply_override(draft, override)
    spec = check(draft)
    if spec is None:
        raise SpecError(draft.problems, "--set")
    return _with_rows_per_step(spec, before.rows_per_step)


def _with_rows_per_step(spec: RunSpec, num_rows: int) -> RunSpec:
    num_workers, rows_at_once = spec.distributed.num_workers, spec.micro_batch_size * spec.distributed.num_workers
    if num_rows % rows_at_once:
        fitting = [str(n) for n in range(1, num_rows + 1) if num_rows % (spec.micro_batch_size * n) == 0]
        message = (
            f"got {num_workers}; a step of this run takes {num_rows} rows, {spec.micro_batch_size} at once on each "
            f"worker; allowed: {', '.join(fitting)}"
        )
        raise SpecError([Problem("distributed.num_workers", message)], "--set")
    return spec.model_copy(update={"gradient_accumulation_steps": num_rows // rows_at_once})
