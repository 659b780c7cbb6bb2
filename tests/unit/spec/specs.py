"""Configurations that the tests of this room draw, write and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from raylora.errors import SpecError
from raylora.spec.reading.load import LoadedSpec, load_spec
from raylora.spec.run import RunSpec

LEAST = "base_model: org/model\ndatasets: [{path: rows.jsonl}]\n"


def load_text(folder: Path, text: str, overrides: Sequence[str] = ()) -> LoadedSpec:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    return load_spec(path, overrides)


def problems_of(folder: Path, text: str, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(folder, text, overrides)
    return [str(problem) for problem in caught.value.problems]


# Without lone surrogates, which no file in UTF-8 can hold.
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
counts = st.integers(1, 10**9)
shares = st.floats(0, 1, exclude_max=True)
amounts = st.floats(0, 1e30, exclude_min=True)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


addresses = words.filter(lambda text: "@" not in text)

datasets = st.fixed_dictionaries(
    {"path": addresses},
    optional={
        "type": st.sampled_from(["chat", "completion", "alpaca", "text"]),
        "split": words,
        "name": optional(words),
        "columns": st.dictionaries(words, words, max_size=2),
        "weight": amounts,
    },
)

distributed = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["ddp", "fsdp", "deepspeed"]),
        "num_workers": counts,
        "cpus_per_worker": amounts,
        "gpus_per_worker": st.sampled_from([None, 0, 1]),
        "resources_per_worker": optional(st.dictionaries(words, amounts, max_size=2)),
        "timeout_s": counts,
    },
)

runs: st.SearchStrategy[RunSpec] = st.fixed_dictionaries(
    {"base_model": addresses, "datasets": st.lists(datasets, min_size=1, max_size=3)},
    optional={
        "base_model_revision": optional(words),
        "load_in_4bit": st.booleans(),
        "dtype": st.sampled_from(["auto", "float32", "bfloat16"]),
        "lora_r": counts,
        "lora_alpha": amounts,
        "lora_dropout": shares,
        "lora_target_modules": st.lists(words, min_size=1, max_size=3),
        "val_set_size": shares,
        "learning_rate": amounts,
        "max_steps": optional(counts),
        "warmup_steps": optional(counts),
        "seed": st.integers(0, 2**32 - 1),
        "sample_prompts": st.lists(words, max_size=3),
        "run_name": optional(words),
        "distributed": distributed,
        "storage": st.fixed_dictionaries({}, optional={"uri": optional(addresses), "keep_checkpoints": counts}),
    },
).map(lambda values: RunSpec.model_validate(values))
