"""Records of sweeps as a driver leaves them, made up: no training happened."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from raylora.store.sweeps import CurvePoint, SweepRecord, TrialRecord, TrialStatus

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BASE = {
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "load_in_4bit": True,
    "datasets": [{"path": "data/train.jsonl"}],
    "val_set_size": 0.05,
    "max_steps": 80,
}
TARGETS = [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"], "all-linear", r".*\.(up|down)_proj$"]


def trial(number: int, metric: float | None = None, **fields: Any) -> TrialRecord:
    """One trial, which succeeded unless told otherwise."""
    given = {"config": {"lora_r": 8}, "status": "succeeded", "steps": 10, "tokens": 640} | fields
    return TrialRecord(trial_id=f"t{number:03d}", number=number, metric=metric, **given)


def sweep(trials: Sequence[TrialRecord], **spec: Any) -> SweepRecord:
    """A sweep that is over."""
    asked = {"metric": "eval_loss", "mode": "min", "run": BASE} | spec
    return SweepRecord(
        sweep_id="20260102-030405-abcdef",
        status="finished",
        created=CREATED,
        updated=CREATED + timedelta(minutes=13),
        spec=asked,
        trials=tuple(trials),
    )


def large_sweep(num_configs: int, repeats: int = 1, validated: bool = True, seed: int = 0) -> SweepRecord:
    """A sweep with early stops, a diverged trial and a conditional knob, whose best values are known to lie inside."""
    chance = random.Random(seed)
    trials: list[TrialRecord] = []
    for _ in range(num_configs):
        config = _sampled(chance)
        for repeat in range(repeats):
            trials.append(_trained(len(trials), config, repeat, validated, chance))
    return sweep(trials, metric="eval_loss" if validated else "train_loss", num_trials=num_configs, repeats=repeats)


def _sampled(chance: random.Random) -> dict[str, Any]:
    rank = chance.choice([4, 8, 16, 32, 64])
    config = {
        "lora_r": rank,
        "lora_alpha": float(chance.choice([1, 2]) * rank),
        "lora_target_modules": chance.choice(TARGETS),
        "learning_rate": round(10 ** chance.uniform(-4.3, -2), 7),
        "lora_dropout": chance.choice([0.0, 0.05, 0.1]),
        "lr_scheduler": chance.choice(["cosine", "linear", "warmup_stable_decay"]),
    }
    return config | ({"decay_ratio": 0.2} if config["lr_scheduler"] == "warmup_stable_decay" else {})


def _trained(
    number: int, config: Mapping[str, Any], repeat: int, validated: bool, chance: random.Random
) -> TrialRecord:
    distance = abs(math.log10(config["learning_rate"]) + 3)
    floor = 1.45 + 0.35 * distance - 0.04 * math.log2(config["lora_r"]) + chance.gauss(0, 0.02)
    diverged = config["learning_rate"] > 8e-3
    num_steps = 24 if diverged else chance.choice([20, 40, 80]) if distance > 0.35 else 80
    curve = []
    for step in range(1, num_steps + 1):
        loss = floor + 1.6 * math.exp(-step * config["learning_rate"] * 40 - step / 60)
        loss += math.exp((step - 16) / 2) if diverged else 0
        evaluated = validated and step % 10 == 0
        curve.append(CurvePoint(step, 512 * step, loss + chance.gauss(0, 0.06), loss + 0.05 if evaluated else None))
    status: TrialStatus = "failed" if diverged else "succeeded" if num_steps == 80 else "stopped"
    measured = [point.eval_loss if validated else point.train_loss for point in curve]
    done = not diverged
    return trial(
        number,
        None if diverged else [loss for loss in measured if loss is not None][-1],
        config=dict(config),
        repeat=repeat,
        status=status,
        steps=num_steps,
        tokens=512 * num_steps,
        curve=tuple(curve),
        trainable_parameters=config["lora_r"] * (30_000 if len(config["lora_target_modules"]) == 2 else 305_280),
        run_id=f"20260102-030405-{number:06x}",
        adapter_uri=f"s3://bucket/raylora/runs/20260102-030405-{number:06x}/adapter" if done else None,
        mlflow_run_id=f"{number:032x}",
        error=None if done else f"loss is NaN at step {num_steps}; the last good checkpoint is of step 16",
        pack=number // 8,
    )
