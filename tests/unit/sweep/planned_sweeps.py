"""Small sweeps, the machines they are planned on, and their plans."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PretrainedConfig

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.planning.duration import Rows
from raylora.sweep.planning.offer import Node, Offer
from raylora.sweep.planning.plan import Group, Plan, plan_sweep

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=256,
)  # fmt: skip
RUN = {
    "base_model": "base",
    "datasets": [{"path": "rows.jsonl"}],
    "dtype": "float32",
    "sequence_len": 32,
    "lora_r": 4,
    "val_set_size": 0.1,
    "distributed": {"gpus_per_worker": 0},
}
"""Without steps: time is predicted only where a test gives some."""
STEPS = {"max_steps": 6}
GRID_OF_8 = {"lora_r": {"choice": [2, 4, 8, 16]}, "learning_rate": {"choice": [1e-4, 1e-3]}}


def sweep(space: dict[str, Any], run: dict[str, Any] | None = None, **fields: Any) -> SweepSpec:
    return SweepSpec.model_validate({"run": RUN | (run or {}), "space": space, "num_trials": 8} | fields)


def grid(space: dict[str, Any], run: dict[str, Any] | None = None, **fields: Any) -> SweepSpec:
    return sweep(space, run, **{"searcher": "grid", "num_trials": None} | fields)


def machine(cores: float = 1, host_bytes: int = 32 * 10**9) -> Offer:
    return Offer((Node({"CPU": cores}, host_bytes),))


def place(**fields: Any) -> dict[str, Any]:
    return {"distributed": {"gpus_per_worker": 0} | fields}


def plan(asked: SweepSpec, offer: Offer, config: PretrainedConfig = CONFIG, rows: Rows | None = None) -> Plan:
    return plan_sweep(asked, offer, lambda spec: config, rows)


def only(found: Plan) -> Group:
    (group,) = found.groups
    return group
