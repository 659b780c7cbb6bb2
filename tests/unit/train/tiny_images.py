"""Runs on images small enough for a test: a random vision transformer, and scikit-learn's digits as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from raylora.spec.run import RunSpec
from tests.unit.train.tiny_run import tiny_spec

DIGITS = tuple(map(str, range(10)))
SIDE = 8
"""Pixels of a digit."""
TASK: dict[str, Any] = {"task_type": "image_cls", "labels": DIGITS}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_vit(folder: Path, **fields: Any) -> Path:
    """Save a random base as it is published: with a head of other classes, and its image processor."""
    torch.manual_seed(0)
    size = {"image_size": SIDE, "patch_size": 2, "num_labels": 3, "initializer_range": 0.2}
    ViTForImageClassification(ViTConfig(**{**SHAPE, **size, **fields})).save_pretrained(folder)
    mean = [0.5] * fields.get("num_channels", 3)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=mean, image_std=mean)
    processor.save_pretrained(folder)
    return folder


def digit(number: int) -> Image.Image:
    """One of 1,797 digits that people wrote, in grey."""
    return Image.fromarray((load_digits().images[number] * 255 / 16).astype(np.uint8))


def write_digits(file: Path, numbers: range) -> Path:
    """Write digits as files, and beside them rows that name them by their path and say which they are."""
    (file.parent / "images").mkdir(exist_ok=True)
    rows = []
    for number in numbers:
        digit(number).save(file.parent / "images" / f"{number}.png")
        rows.append({"image": f"images/{number}.png", "label": int(load_digits().target[number])})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_images(folder: Path, num_rows: int = 48) -> Path:
    """Save a base and rows side by side, as ``vit`` and ``digits.jsonl``."""
    save_vit(folder / "vit")
    write_digits(folder / "digits.jsonl", range(num_rows))
    return folder


def image_spec(home: Path, **fields: Any) -> RunSpec:
    """A run of a few steps on digits."""
    rows = home / "digits.jsonl"
    source = {"path": str(rows), "type": "image"}
    return tiny_spec(home / "vit", rows, **{"datasets": [source], **TASK, **fields})
