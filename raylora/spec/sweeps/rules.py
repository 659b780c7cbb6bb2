"""A sweep's fields that must fit together; `SweepSpec` asks when one is made, `load.py` when a file is read."""

from __future__ import annotations

import itertools

from raylora.spec.fields.knobs import Ratio
from raylora.spec.fields.metrics import GREATER_IS_BETTER, LOSSES, TOLD
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.rules.rule import Rule, registrar
from raylora.spec.sweeps.space import configurations, is_finite

SWEEP_RULES: list[Rule[SweepFields]] = []
rule = registrar(SWEEP_RULES)

MUTABLE = ("learning_rate", "lora_alpha", "lora_dropout", "weight_decay")
"""What a trial can change half-way and go on from another's weights."""

MAX_GRID = 10_000


@rule("num_trials", "searcher")
def _searchers_need_a_number(sweep: SweepFields) -> str | None:
    """A searcher other than `grid` needs `num_trials`."""
    if sweep.num_trials is None and sweep.searcher != "grid":
        return f"missing; {sweep.searcher} draws for ever: give the number of configurations, such as 16"
    return None


@rule("searcher", "space")
def _grid_is_finite(sweep: SweepFields) -> str | None:
    """`grid` needs knobs of finitely many values (`choice`, `int`, `ratio`), and at most 10,000 configurations."""
    if sweep.searcher != "grid":
        return None
    if endless := [name for name, knob in sweep.space.items() if not is_finite(knob)]:
        return f"a grid has no end over {', '.join(endless)}; write choice: [...], or use searcher: random or one that learns"
    if _grid_size(sweep) > MAX_GRID:
        return f"the grid has more than {MAX_GRID:,} configurations; use searcher: random with num_trials"
    return None


@rule("num_trials", "searcher", "space")
def _grid_holds_the_trials(sweep: SweepFields) -> str | None:
    """`num_trials` of a `grid` is at most its number of configurations."""
    if sweep.searcher != "grid" or sweep.num_trials is None or _grid_is_finite(sweep) is not None:
        return None
    size = _grid_size(sweep)
    if sweep.num_trials > size:
        return f"got {sweep.num_trials}; the grid has {size} configurations: lower it, or remove it for all of them"
    return None


@rule("searcher", "scheduler")
def _bohb_comes_with_hyperband(sweep: SweepFields) -> str | None:
    """`searcher: bohb` goes with `scheduler: hyperband`."""
    if sweep.searcher == "bohb" and sweep.scheduler != "hyperband":
        return f"bohb learns from hyperband's brackets, got scheduler: {sweep.scheduler}; write scheduler: hyperband"
    return None


@rule("scheduler", "searcher")
def _pbt_searches_itself(sweep: SweepFields) -> str | None:
    """`scheduler: pbt` goes with `searcher: random` or `grid`."""
    if sweep.scheduler == "pbt" and sweep.searcher not in ("random", "grid"):
        return f"pbt chooses configurations itself and cannot go with {sweep.searcher}; write searcher: random"
    return None


@rule("scheduler", "space")
def _pbt_mutates_what_it_can(sweep: SweepFields) -> str | None:
    """Under `scheduler: pbt` the knobs are `learning_rate`, `lora_alpha`, `lora_dropout` and `weight_decay`, without conditions."""
    if sweep.scheduler != "pbt":
        return None
    if fixed := [name for name in sweep.space if name not in MUTABLE]:
        return (
            f"a trial goes on from another's weights, which do not fit another {', '.join(fixed)}; "
            f"allowed: {', '.join(MUTABLE)}; or use scheduler: asha"
        )
    if bound := [name for name, knob in sweep.space.items() if knob.when or isinstance(knob, Ratio)]:
        return f"pbt turns each knob by itself, and {', '.join(bound)} depends on another; write a range or a choice"
    return None


@rule("repeats", "scheduler")
def _pbt_has_no_repeats(sweep: SweepFields) -> str | None:
    """`scheduler: pbt` goes with `repeats: 1`."""
    if sweep.repeats > 1 and sweep.scheduler == "pbt":
        return (
            f"got {sweep.repeats}; under pbt configurations change half-way and no two seeds train the same one; "
            "train the winner under several seeds afterwards, with searcher: grid and a choice of seed"
        )
    return None


@rule("repeats", "space")
def _repeats_are_seeds(sweep: SweepFields) -> str | None:
    """`seed` is a knob or there are `repeats`."""
    if sweep.repeats > 1 and "seed" in sweep.space:
        return f"got {sweep.repeats}, and seed is a knob: both set the trials' seeds; remove one"
    return None


@rule("metric", "run")
def _evaluation_needs_rows(sweep: SweepFields) -> str | None:
    """A `metric` other than `train_loss` needs validation rows in the run."""
    if sweep.metric != "train_loss" and not sweep.run.validates:
        return "the run has no validation rows; set its val_set_size (for example 0.05) or test_datasets, or metric: train_loss"
    return None


@rule("metric", "run", "space")
def _metric_is_told(sweep: SweepFields) -> str | None:
    """A `metric` other than a loss is told under the run's `rl` and `task_type`, which are then no knobs."""
    learned = sweep.run.rl or sweep.run.task_type
    told, knobs = TOLD[learned], [name for name in ("rl", "task_type") if name in sweep.space]
    if sweep.metric in LOSSES or (sweep.metric in told and not knobs):
        return None
    why = f"{knobs[0]} is a knob" if knobs else f"{learned} tells {', '.join(told)}"
    return f"got {sweep.metric}, but {why}; write one of these, or metric: eval_loss"


@rule("mode", "metric")
def _better_is_best(sweep: SweepFields) -> str | None:
    """A `metric` that is an accuracy or a margin goes with `mode: max`."""
    if sweep.mode == "min" and sweep.metric in GREATER_IS_BETTER:
        return f"got min with metric: {sweep.metric}, of which the least is worst; write mode: max"
    return None


@rule("run")
def _packs_keep_their_workers(sweep: SweepFields) -> str | None:
    """`distributed.min_workers` is not of a sweep's run."""
    if sweep.run.distributed.min_workers is not None:
        return "distributed.min_workers: a pack keeps its number of workers; remove it from the sweep's run"
    return None


@rule("budget")
def _one_budget(sweep: SweepFields) -> str | None:
    """`budget` is in `steps` or in `tokens`."""
    if sweep.budget is not None and (sweep.budget.steps is None) == (sweep.budget.tokens is None):
        return "got both or none of steps and tokens; write {steps: 50} or {tokens: 100000}"
    return None


@rule("scheduler", "budget", "run", "space")
def _stopping_needs_a_budget(sweep: SweepFields) -> str | None:
    """A scheduler other than `fifo` needs a `budget`, or `max_steps` in the run, the same for all trials."""
    if sweep.scheduler == "fifo" or _one_budget(sweep) is not None:
        return None
    if sweep.max_t is None or (sweep.budget is None and "max_steps" in sweep.space):
        return (
            f"{sweep.scheduler} divides a budget that all trials share; give budget: {{steps: ...}} or {{tokens: ...}}"
        )
    return None


@rule("report_steps", "budget", "run")
def _a_trial_reports(sweep: SweepFields) -> str | None:
    """`report_steps` is at most the steps of a trial."""
    if sweep.time_attr == "steps" and sweep.max_t is not None and sweep.report_steps > sweep.max_t:
        return f"got {sweep.report_steps}; a trial ends after {sweep.max_t} steps and would report once: lower it"
    return None


@rule("grace_period", "budget", "report_steps", "run")
def _grace_within_budget(sweep: SweepFields) -> str | None:
    """`grace_period` is at most the budget and, in steps, at least `report_steps`."""
    return _within(sweep, sweep.grace_period)


@rule("perturbation_interval", "budget", "report_steps", "run")
def _interval_within_budget(sweep: SweepFields) -> str | None:
    """`perturbation_interval` is at most the budget and, in steps, at least `report_steps`."""
    return _within(sweep, sweep.perturbation_interval)


def _within(sweep: SweepFields, amount: int | None) -> str | None:
    least = sweep.report_steps if sweep.time_attr == "steps" else 1
    if amount is None or sweep.max_t is None or least <= amount <= sweep.max_t or least > sweep.max_t:
        return None
    return f"got {amount}; allowed: {least:,} to {sweep.max_t:,} {sweep.time_attr}, from one report to the whole budget"


def _grid_size(sweep: SweepFields) -> int:
    """Count configurations, but not beyond what is allowed."""
    return sum(1 for _ in itertools.islice(configurations(sweep.space), MAX_GRID + 1))
