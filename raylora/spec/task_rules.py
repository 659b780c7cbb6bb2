"""Rules of a run about its task; `rules.py` asks them with all others."""

from __future__ import annotations

from raylora.spec.rule import Rule, registrar
from raylora.spec.run_fields import RunFields

ROWS = {"seq_cls": "classification", "token_cls": "tags"}
"""Types of datasets by the task that learns from them; a reward is learned from `preference`."""

TASK_RULES: list[Rule[RunFields]] = []
rule = registrar(TASK_RULES)


@rule("labels", "task_type", "rl")
def _classes(run: RunFields) -> str | None:
    """`labels` are two or more different names where `task_type` is `seq_cls` or `token_cls` without `rl`, and stand nowhere else."""
    if not run.has_head or run.rl is not None:
        beside = f"rl: {run.rl}" if run.has_head else "task_type: causal_lm"
        return f"got {', '.join(run.labels)} with {beside}, which has no classes; remove it" if run.labels else None
    if len(run.labels) < 2:
        got = ", ".join(run.labels) or "none"
        return f"got {got}; {run.task_type} tells classes apart: name two or more, such as labels: [negative, positive]"
    if repeated := sorted({name for name in run.labels if run.labels.count(name) > 1}):
        return f"{', '.join(repeated)} stands there more than once; name each class once"
    return None


@rule(
    "task_type",
    "rl",
    "datasets",
    "test_datasets",
    "adapter",
    "adapter_bank",
    "peft",
    "sample_prompts",
    "train_on_inputs",
)
def _task(run: RunFields) -> str | None:
    """`seq_cls` learns from datasets of type `classification`, or under `rl: reward` from `preference`, and `token_cls` from `tags`, without `sample_prompts`, `train_on_inputs` and `adapter: full` and with `adapter_bank: packed` and no `peft` block; `causal_lm` takes no `rl: reward` and no such types."""
    return _no_head(run) if not run.has_head else _rows(run) or _beside(run)


def _no_head(run: RunFields) -> str | None:
    if run.rl == "reward":
        return "got causal_lm with rl: reward, which learns a number for each text; set task_type: seq_cls"
    types = _types(run)
    if classed := [task for task, rows in ROWS.items() if rows in types]:
        return f"got causal_lm and datasets of type {ROWS[classed[0]]}; set task_type: {classed[0]}, or another type"
    return None


def _rows(run: RunFields) -> str | None:
    """What a head does not learn from."""
    if run.rl is not None:
        if (run.rl, run.task_type) == ("reward", "seq_cls"):
            return None
        needed = "seq_cls" if run.rl == "reward" else "causal_lm"
        return f"got {run.task_type} with rl: {run.rl}, which needs task_type: {needed}; set it, or remove rl"
    wanted, types = ROWS[run.task_type], _types(run)
    if types == {wanted}:
        return None
    others = ", ".join(sorted(types - {wanted}))
    return f"got {run.task_type}, which learns from datasets of type {wanted}; got type {others}: set it, or remove task_type"


def _beside(run: RunFields) -> str | None:
    """What a head does not go with."""
    is_set = {
        "adapter_bank: peft (it holds an adapter and no head)": run.adapter_bank == "peft",
        "a peft: block (its bank holds an adapter and no head)": run.peft is not None,
        "adapter: full (it trains no head beside the base)": run.trains_base,
        "sample_prompts (nothing answers them)": bool(run.sample_prompts),
        "train_on_inputs: true (the loss is of classes alone)": run.train_on_inputs,
    }
    found = [text for text, has in is_set.items() if has]
    return f"got {run.task_type} with {', '.join(found)}; remove that" if found else None


def _types(run: RunFields) -> set[str]:
    return {dataset.type for dataset in (*run.datasets, *run.test_datasets)}
