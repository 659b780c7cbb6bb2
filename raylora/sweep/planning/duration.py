"""How long a group of trials takes: steps counted, one step predicted on this machine, a start-up for each pack.

Called by `plan`. Nothing is stopped early in a prediction, and nothing travels between workers in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from raylora.errors import ModelError
from raylora.objectives.choose import objective_of
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.value_shape import row_tokens
from raylora.sweep.planning.width import Width
from raylora.train.prediction.forecast import StepTime, forecast

WORKERS_S, LOAD_S_PER_VALUE = 22.0, 2.2e-8
"""Workers started and libraries imported; a base read, quantized and placed. Two workers on two cores took so long for
a base of 135M values; a start is foreseen by the base's size alone, whatever the processor and the disk."""


@dataclass(frozen=True)
class Rows:
    """The data, as far as a duration depends on it.

    Args:
        num_rows: Training rows.
        mean_tokens: Of one of them, after truncation.
        num_validation_rows: Validation rows.
        mean_validation_tokens: Of one of them, after truncation.
    """

    num_rows: int
    mean_tokens: float
    num_validation_rows: int = 0
    mean_validation_tokens: float = 0.0


@dataclass(frozen=True)
class Duration:
    """Predicted seconds of a group.

    Args:
        start_s: Start-up; of every trial in turn where they run alone.
        steps_s: Optimizer steps.
        evaluations_s: Evaluations, one a report.
        num_steps: Optimizer steps of a trial.
        tokens_per_s: Of one pack, while it steps.
        speedup: Of steps, over the same trials one at a time on the same workers. Neither start-ups nor the gathering
            of a sharded base are in it, both of which a pack has once where trials alone have them each.
        one_by_one_s: Seconds of the same trials one at a time on the same workers, each with a start-up of its own.
    """

    start_s: float
    steps_s: float
    evaluations_s: float
    num_steps: int
    tokens_per_s: float
    speedup: float
    one_by_one_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.start_s + self.steps_s + self.evaluations_s


def start_up_s(base_parameters: int) -> float:
    """Seconds until the workers of a pack, or of a run, take their first step.

    Args:
        base_parameters: Values of the base.
    """
    return WORKERS_S + LOAD_S_PER_VALUE * base_parameters


def predict_duration(
    sweep: SweepSpec,
    spec: RunSpec,
    num_trials: int,
    num_packs: int,
    width: Width,
    config: PretrainedConfig,
    rows: Rows | None,
    device: str,
    start_s: float,
    starts_each: bool,
) -> Duration | str:
    """Predict how long the packs of a group train.

    Args:
        sweep: The sweep.
        spec: The largest run of the group.
        num_trials: Of the group.
        num_packs: At once.
        width: Of a pack.
        config: Of the base.
        rows: Of the data, if they are known.
        device: ``cpu`` or ``cuda``, which this machine has.
        start_s: Of the workers of a pack, see `start_up_s`.
        starts_each: Whether every trial has workers of its own.

    Returns:
        The duration, or why there is none.
    """
    num_steps = _num_steps(sweep, spec, rows)
    if num_steps is None:
        return (
            "num_epochs says how long a trial is, and rows are counted when the sweep starts; set budget or max_steps"
        )
    tokens = row_tokens(spec, config) if spec.reads_values else round(_tokens_per_row(spec, rows))
    try:
        time = forecast(spec, config, width.slots_per_rank, tokens, torch.device(device))
        alone = time if width.slots_per_rank == 1 else forecast(spec, config, 1, tokens, torch.device(device))
    except ModelError as error:
        return str(error)
    waves = num_trials / (num_packs * width.num_slots)  # trials of one slot, one after the other
    step_s, alone_s = _step_s(spec, time, width.slots_stay_on_ranks), _step_s(spec, alone, False)
    num_evaluations = math.ceil(num_steps / sweep.report_steps)
    lines = _validation_lines(rows, tokens)
    evaluation_s = _evaluation_s(spec, time, lines, width.slots_stay_on_ranks)
    evaluation_alone_s = _evaluation_s(spec, alone, lines, False)
    # A run alone is evaluated before its first step, too.
    one_s = start_s + num_steps * alone_s + (num_evaluations + 1) * evaluation_alone_s
    return Duration(
        start_s=start_s * (waves if starts_each else 1),
        steps_s=waves * num_steps * step_s,
        evaluations_s=waves * num_evaluations * evaluation_s,
        num_steps=num_steps,
        tokens_per_s=width.num_slots * spec.rows_per_step * tokens / step_s,
        speedup=width.num_slots * alone_s / step_s,
        one_by_one_s=num_trials / num_packs * one_s,
    )


def makespan_s(parts: Sequence[tuple[float, float]]) -> float:
    """Seconds of groups that share a cluster, each on its part of it for as long as it takes.

    Args:
        parts: Seconds of each, and the part of the cluster that it has meanwhile, above 0.
    """
    return max(max(seconds for seconds, _ in parts), sum(seconds * part for seconds, part in parts))


def _step_s(spec: RunSpec, time: StepTime, stays: bool) -> float:
    """Seconds of a step: a slot that stays on its worker has all its rows computed there."""
    num_passes = spec.gradient_accumulation_steps * (spec.distributed.num_workers if stays else 1)
    return num_passes * (time.pass_s + _num_further_forward(spec) * time.forward_s) + time.update_s


def _evaluation_s(spec: RunSpec, time: StepTime, num_lines: float, stays: bool) -> float:
    """Seconds of an evaluation: a slot that stays on its worker has all its lines computed there."""
    mine = num_lines / (1 if stays else spec.distributed.num_workers)
    num_forward = 1 + _num_further_forward(spec)
    return math.ceil(mine / spec.micro_batch_size) * num_forward * time.forward_s


def _num_further_forward(spec: RunSpec) -> int:
    """Forward passes beside each: one of the base alone, and both over rows that a reference point is found on."""
    objective = objective_of(spec)
    return int(objective.needs_reference) + 2 * int(objective.needs_point)


def _tokens_per_row(spec: RunSpec, rows: Rows | None) -> float:
    if rows is None or spec.sample_packing:  # a bin is filled
        return spec.sequence_len
    return max(1.0, min(rows.mean_tokens, spec.sequence_len))


def _validation_lines(rows: Rows | None, tokens_per_line: int) -> float:
    """Validation rows, counted in lines of a micro-batch: binned or short ones are fewer lines than rows."""
    return 0.0 if rows is None else rows.num_validation_rows * rows.mean_validation_tokens / tokens_per_line


def _num_steps(sweep: SweepSpec, spec: RunSpec, rows: Rows | None) -> int | None:
    """Optimizer steps of a trial that is not stopped."""
    tokens_per_row = _tokens_per_row(spec, rows)
    limits = []
    if sweep.budget is not None and sweep.budget.tokens is not None:
        limits.append(math.ceil(sweep.budget.tokens / (spec.rows_per_step * tokens_per_row)))
    if spec.max_steps is not None:
        limits.append(spec.max_steps)
    elif rows is not None:
        num_lines = rows.num_rows * rows.mean_tokens / tokens_per_row if spec.sample_packing else rows.num_rows
        limits.append(spec.num_epochs * math.ceil(num_lines / spec.rows_per_step))
    return min(limits, default=None)
