"""The runs that the strategies' contract trains, on materials that lie in one folder. Made for `strategy_worker`."""

from __future__ import annotations

from pathlib import Path

from raylora.spec.run import RunSpec
from tests.unit.train.tiny_audio import audio_spec
from tests.unit.train.tiny_heads import FAMILIES, TASKS, head_spec
from tests.unit.train.tiny_images import image_spec
from tests.unit.train.tiny_run import tiny_spec

STRATEGIES: dict[str, dict[str, object]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "zero1": {"strategy": "deepspeed", "zero_stage": 1},
    "zero2": {"strategy": "deepspeed", "zero_stage": 2},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
}
QUANTIZATIONS: dict[str, dict[str, object]] = {
    "none": {},
    "nf4": {"load_in_4bit": True},
    "int8": {"load_in_8bit": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
}
OF_FILES = {"vit-image_cls": image_spec, "ast-audio_cls": audio_spec}
HEADS = (*(f"{family}-{task}" for family in FAMILIES for task in TASKS), *OF_FILES)
"""Families of bases, and tasks that each has a head for."""
PAIRWISE = ("dpo", "ipo", "orpo")
"""What is learned from pairs of answers."""
NORM = 1.4
"""Between the gradient norms of the run: some steps are clipped and some are not."""


def run_spec(folder: Path, strategy: str, quantization: str, **fields: object) -> RunSpec:
    """Two micro-batches for each worker and step."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": NORM, "val_set_size": 9, "distributed": place}
    return tiny_spec(folder / "base", folder / "rows.jsonl", **{**settings, **QUANTIZATIONS[quantization], **fields})


def pairs_spec(folder: Path, strategy: str, rl: str) -> RunSpec:
    """A run that learns from pairs of answers."""
    pairs = {"rl": rl, "datasets": [{"path": str(folder / "pairs.jsonl"), "type": "preference"}]}
    return run_spec(folder, strategy, "nf4", **pairs)


def rated_spec(folder: Path, strategy: str) -> RunSpec:
    """A run that learns from answers that are desirable or not."""
    rated = {"rl": "kto", "datasets": [{"path": str(folder / "rated.jsonl"), "type": "unpaired_preference"}]}
    return run_spec(folder, strategy, "nf4", **rated, rl_beta=0.2, kto_desirable_weight=4)


def weighted_spec(folder: Path, strategy: str) -> RunSpec:
    return run_spec(folder, strategy, "nf4", datasets=[{"path": str(folder / "weighted.jsonl")}])


def head_of(folder: Path, strategy: str, head: str) -> RunSpec:
    """A run that trains a head beside its adapter."""
    place = {"num_workers": 2, **STRATEGIES[strategy]}
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": NORM, "distributed": place, "load_in_4bit": True}
    if head in OF_FILES:
        return OF_FILES[head](folder / "files", **settings)
    family, task = head.split("-")
    return head_spec(folder / "heads", family, task, **settings)
