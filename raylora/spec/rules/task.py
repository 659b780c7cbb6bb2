"""Rules of a run about its task; `run.py` asks them with all others."""

from __future__ import annotations

from raylora.spec.fields.run import RunFields
from raylora.spec.fields.task import WITH_HEAD
from raylora.spec.rules.rule import Rule, registrar

ROWS = {
    "seq_cls": ("classification",),
    "token_cls": ("tags",),
    "image_cls": ("image",),
    "audio_cls": ("audio",),
    "seq_2_seq_lm": ("completion", "alpaca"),
}
"""Types of datasets by the task that learns from them; a reward is learned from `preference`."""

TASK_RULES: list[Rule[RunFields]] = []
rule = registrar(TASK_RULES)


@rule("labels", "task_type", "rl")
def _classes(run: RunFields) -> str | None:
    """`labels` are two or more different names where `task_type` is another than `causal_lm` and `seq_2_seq_lm`, without `rl`, and stand nowhere else."""
    if not run.has_head or run.rl is not None:
        beside = f"rl: {run.rl}" if run.has_head else f"task_type: {run.task_type}"
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
    "sample_packing",
    "init_lora_weights",
    "chat_template",
)
def _task(run: RunFields) -> str | None:
    """`seq_cls` learns from datasets of type `classification`, or under `rl: reward` from `preference`, `token_cls` from `tags`, `image_cls` from `image`, `audio_cls` from `audio`, and `seq_2_seq_lm` from `completion` and `alpaca`, without `sample_prompts`, `train_on_inputs` and `adapter: full` and with `adapter_bank: packed` and no `peft` block; the last three also without `sample_packing`, `image_cls` and `audio_cls` without `chat_template`, and `seq_2_seq_lm` without `init_lora_weights: eva`; `causal_lm` takes no `rl: reward` and no types with classes."""
    return _next_token(run) if run.task_type == "causal_lm" else _rows(run) or _beside(run)


def _next_token(run: RunFields) -> str | None:
    if run.rl == "reward":
        return "got causal_lm with rl: reward, which learns a number for each text; set task_type: seq_cls"
    types = _types(run)
    if classed := [(task, rows) for task in WITH_HEAD for rows in ROWS[task] if rows in types]:
        task, rows = classed[0]
        return f"got causal_lm and datasets of type {rows}; set task_type: {task}, or another type"
    return None


def _rows(run: RunFields) -> str | None:
    """What a task does not learn from."""
    if run.rl is not None:
        if (run.rl, run.task_type) == ("reward", "seq_cls"):
            return None
        needed = "seq_cls" if run.rl == "reward" else "causal_lm"
        return f"got {run.task_type} with rl: {run.rl}, which needs task_type: {needed}; set it, or remove rl"
    wanted, types = ROWS[run.task_type], _types(run)
    if not (others := types.difference(wanted)):
        return None
    return (
        f"got {run.task_type}, which learns from datasets of type {' or '.join(wanted)}; got type "
        f"{', '.join(sorted(others))}: set it, or remove task_type"
    )


def _beside(run: RunFields) -> str | None:
    """What a task does not go with."""
    is_set = _beside_two_sides(run) if run.has_two_sides else _beside_head(run)
    is_set["sample_prompts (nothing answers them)"] = bool(run.sample_prompts)
    found = [text for text, has in is_set.items() if has]
    return f"got {run.task_type} with {', '.join(found)}; remove that" if found else None


def _beside_head(run: RunFields) -> dict[str, bool]:
    return {
        "adapter_bank: peft (it holds an adapter and no head)": run.adapter_bank == "peft",
        "a peft: block (its bank holds an adapter and no head)": run.peft is not None,
        "adapter: full (it trains no head beside the base)": run.trains_base,
        "train_on_inputs: true (the loss is of classes alone)": run.train_on_inputs,
        "sample_packing: true (a file is a row by itself)": run.reads_values and run.sample_packing,
        "chat_template (rows are no texts)": run.reads_values and run.chat_template is not None,
    }


def _beside_two_sides(run: RunFields) -> dict[str, bool]:
    return {
        "adapter_bank: peft (it writes adapters of decoders)": run.adapter_bank == "peft",
        "a peft: block (its bank writes adapters of decoders)": run.peft is not None,
        "adapter: full (it publishes decoders)": run.trains_base,
        "train_on_inputs: true (the loss is of the target alone)": run.train_on_inputs,
        "sample_packing: true (rows lie without padding as it is)": run.sample_packing,
        "init_lora_weights: eva (its start is made for texts, not for sources and targets)": run.init_lora_weights
        == "eva",
    }


def _types(run: RunFields) -> set[str]:
    return {dataset.type for dataset in (*run.datasets, *run.test_datasets)}
