"""Adapters against training all weights: the same rows and steps, three seeds; validation loss, memory and time."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.raylora_side import run_spec
from benchmarks.rows import Material
from benchmarks.sides import enter_raylora
from benchmarks.summaries import summary
from benchmarks.turns import Stage
from benchmarks.workload import Workload
from raylora.model.base.meta import read_config
from raylora.train.prediction.estimate import estimate

ROW_TOKENS, MICRO_BATCH_ROWS, STEPS, NUM_VALIDATION_ROWS = 256, 4, 24, 64
SEEDS = (1, 2, 3)
ADAPTER_RATE, WEIGHT_RATE, PROJECTED_RATE = 5e-4, 5e-5, 2e-4
"""Usual rates of each, none of them searched; GaLore's scale takes its own to that of all weights."""
METHODS: dict[str, dict[str, Any]] = {
    "LoRA r=16, NF4 base": {"load_in_4bit": True, "learning_rate": ADAPTER_RATE},
    "LoRA r=16": {"load_in_4bit": False, "learning_rate": ADAPTER_RATE},
    "DoRA r=16": {"load_in_4bit": False, "learning_rate": ADAPTER_RATE, "use_dora": True},
    "full": {"load_in_4bit": False, "learning_rate": WEIGHT_RATE, "adapter": "full"},
    "full, GaLore r=128": {
        "load_in_4bit": False,
        "learning_rate": PROJECTED_RATE,
        "adapter": "full",
        "optimizer": "galore_adamw",
    },
}
MOST_TURNS = 1
"""Seeds are its turns."""


def measure(material: Material, num_turns: int) -> dict[str, Any]:
    """Every method with every seed, the methods in turns.

    Args:
        material: What is trained on what.
        num_turns: One.
    """
    del num_turns
    chats = material.chats(ROW_TOKENS)
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    predicted: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        for name, fields in METHODS.items():
            options = {"seed": seed, "max_steps": STEPS, "sequence_len": ROW_TOKENS, **fields}
            work = Workload(
                str(material.base),
                str(chats),
                quantized=fields["load_in_4bit"],
                micro_batch_rows=MICRO_BATCH_ROWS,
                num_threads=material.num_threads,
                watches_memory=True,
                options=options,
            )
            with Stage() as stage:
                (run,) = enter_raylora(stage, work, material.folder, "full", "full_side").turn()
            print(f"{name}, seed {seed}: {run['eval_loss']:.4f}, {run['wall_s']:.0f} s", file=sys.stderr, flush=True)
            told[name].append(run)
            rank = estimate(run_spec(work), read_config(material.base)).to_json()["ranks"][0]
            predicted[name] = {part: rank[part] for part in ("optimizer_bytes", "gradients_bytes", "peak_bytes")}
    return {
        "steps": STEPS,
        "seeds": len(SEEDS),
        "rows": f"{MICRO_BATCH_ROWS} x at most {ROW_TOKENS} tokens",
        "threads": material.num_threads,
        "eval_loss_before": told["LoRA r=16"][0]["eval_loss_before"],
        "methods": {
            name: {
                "learning_rate": METHODS[name]["learning_rate"],
                "trainable_parameters": runs[0]["trainable_parameters"],
                "optimizer_bytes": runs[0]["optimizer_bytes"],
                "mapped_bytes": runs[0]["mapped_bytes"],
                "predicted": predicted[name],
                **{what: summary([run[what] for run in runs]) for what in ("eval_loss", "peak_bytes", "step_s")},
                "mean_eval_loss": sum(run["eval_loss"] for run in runs) / len(runs),
            }
            for name, runs in told.items()
        },
    }
