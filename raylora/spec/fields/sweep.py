"""Every field of a sweep in one frozen model, beside the run that its trials start from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylora.spec.fields.knobs import Space
from raylora.spec.fields.metrics import Metric
from raylora.spec.fields.part import Number, Part, PositiveInt, Seed
from raylora.spec.fields.run import RunFields

DEFAULT_SHARE = 5
"""A trial may be stopped, or is perturbed, after this part of its budget unless the sweep says when."""

Quantile = Annotated[float, Field(gt=0.0, le=0.5), Number]
Probability = Annotated[float, Field(ge=0.0, le=1.0), Number]
Factor = Annotated[float, Field(gt=1.0), Number]


class BudgetSpec(Part):
    """What every trial gets at most: `steps` or `tokens`."""

    steps: PositiveInt | None = None
    """Optimizer steps, over which the learning rate runs its schedule; they replace the run's `max_steps`."""

    tokens: PositiveInt | None = None
    """Tokens trained on, padding not counted: the step that reaches them is the last, and the learning rate runs its schedule over the steps up to it. The run's own `max_steps` and `num_epochs` may end a trial before."""


class SweepFields(Part):
    """One search: a run, what varies, who chooses, and when to stop a trial."""

    run: RunFields
    """The run that trials start from: the path of its file, or its fields."""

    space: Space = Field(min_length=1)
    """What varies: knobs by the dotted field of the run that each sets."""

    num_trials: PositiveInt | None = None
    """Configurations tried; for a grid the first so many of it, all where absent."""

    metric: Metric = "eval_loss"
    """What trials are judged by: the loss of validation rows, or of the rows of the last step, which is noisy where steps are small; or what else evaluations tell under the run's `rl`."""

    mode: Literal["min", "max"] = "min"
    """Whether the least or the greatest metric is best."""

    repeats: PositiveInt = 1
    """Seeds each configuration is trained under: the run's `seed`, the next number, and so on. The validation rows stay; mean and spread are reported."""

    seed: Seed = 42
    """Seed of the searcher and the scheduler; `run.seed` is the trials'."""

    searcher: Literal["grid", "random", "optuna", "hyperopt", "bohb"] = "random"
    """Who chooses configurations: all in order, by chance, or Ray Tune's Optuna (TPE), HyperOpt or BOHB."""

    scheduler: Literal["fifo", "asha", "hyperband", "median", "pbt"] = "fifo"
    """Who stops trials early: nobody, or Ray Tune's ASHA, HyperBand, median stopping or population-based training."""

    budget: BudgetSpec | None = None
    """What every trial gets at most; the run's own `max_steps` and `num_epochs` where absent."""

    report_steps: PositiveInt = 5
    """Optimizer steps between a trial's reports, each with an evaluation where there are validation rows; they replace the run's `eval_steps`."""

    grace_period: PositiveInt | None = None
    """`asha`, `median`: steps or tokens, as the budget has, before a trial may be stopped; a fifth of the budget where absent."""

    reduction_factor: Factor | None = None
    """`asha`, `hyperband`: one trial in so many goes on from a rung to the next; Ray Tune's own where absent: 4, and 3 for hyperband."""

    min_samples_required: PositiveInt = 3
    """`median`: trials whose median a trial is held against, at least."""

    perturbation_interval: PositiveInt | None = None
    """`pbt`: steps or tokens, as the budget has, between perturbations; a fifth of the budget where absent."""

    quantile_fraction: Quantile = 0.25
    """`pbt`: part of the trials that take over from as many of the best."""

    resample_probability: Probability = 0.25
    """`pbt`: probability that a knob is drawn anew; it is multiplied by 1.2 or 0.8, or moves to a neighbouring choice, otherwise."""

    slots: PositiveInt | None = None
    """Most trials at once in one pack; where absent, planned from memory, a measurement and, for a searcher that learns, the number of trials."""

    @property
    def time_attr(self) -> Literal["steps", "tokens"]:
        """What schedulers count: never seconds, which would make a decision depend on the machine."""
        return "tokens" if self.budget is not None and self.budget.tokens is not None else "steps"

    @property
    def max_t(self) -> int | None:
        """The most of `time_attr` that a trial gets; None where only its epochs end it."""
        if self.budget is None:
            return self.run.max_steps
        return self.budget.steps if self.budget.tokens is None else self.budget.tokens

    @property
    def first_stop(self) -> int:
        """`grace_period`, or its default: a share of the budget, and in steps at least one report."""
        return self.grace_period or self._share

    @property
    def between_perturbations(self) -> int:
        """`perturbation_interval`, or its default: a share of the budget, and in steps at least one report."""
        return self.perturbation_interval or self._share

    @property
    def _share(self) -> int:
        share = (self.max_t or DEFAULT_SHARE) // DEFAULT_SHARE
        return max(share, self.report_steps if self.time_attr == "steps" else 1)
