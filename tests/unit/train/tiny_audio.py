"""Runs on recordings small enough for a test: a random spectrogram transformer, and vowels made of their formants."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from raylora.spec.run import RunSpec
from tests.unit.train.tiny_images import SHAPE
from tests.unit.train.tiny_run import tiny_spec

RATE = 16_000
FORMANTS_HZ = {"a": (730, 1090), "i": (270, 2290), "u": (300, 870)}
"""Of vowels, after Peterson and Barney, 1952."""
VOWELS = tuple(FORMANTS_HZ)
TASK: dict[str, Any] = {"task_type": "audio_cls", "labels": VOWELS}


def save_ast(folder: Path, **fields: Any) -> Path:
    """Save a random base as it is published: with a head of other classes, and its feature extractor."""
    torch.manual_seed(0)
    size = {"max_length": 32, "num_mel_bins": 32, "patch_size": 8, "time_stride": 4, "frequency_stride": 8}
    config = ASTConfig(**{**SHAPE, **size, "num_labels": 2, "initializer_range": 0.2, **fields})
    model = ASTForAudioClassification(config)
    for name, each in model.named_parameters():  # which start at zero
        if name.endswith(("_token", "position_embeddings")):
            torch.nn.init.normal_(each, std=0.2)
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=32, sampling_rate=RATE).save_pretrained(folder)
    return folder


def vowel(name: str, seed: int) -> NDArray[np.int16]:
    """A fifth to a third of a second of a vowel in some noise."""
    draw = np.random.default_rng(seed)
    times_s = np.arange(int(RATE * draw.uniform(0.2, 0.33))) / RATE
    tones = sum(np.sin(2 * np.pi * hz * draw.uniform(0.95, 1.05) * times_s) for hz in FORMANTS_HZ[name])
    samples = 0.2 * tones + draw.normal(0, 0.05, len(times_s))
    return (2**15 * samples.clip(-0.99, 0.99)).astype(np.int16)


def write_wav(file: Path, samples: NDArray[Any], rate: int = RATE, num_channels: int = 1) -> Path:
    with wave.open(str(file), "wb") as out:
        out.setparams((num_channels, samples.itemsize, rate, 0, "NONE", "not compressed"))
        out.writeframes(samples.tobytes())
    return file


def write_vowels(file: Path, num_rows: int, seed: int = 0) -> Path:
    """Write vowels as files, and beside them rows that name them by their path and say which they are."""
    (file.parent / "audio").mkdir(exist_ok=True)
    rows = []
    for number in range(seed, seed + num_rows):
        label = VOWELS[number % len(VOWELS)]
        write_wav(file.parent / "audio" / f"{number}.wav", vowel(label, number))
        rows.append({"audio": f"audio/{number}.wav", "label": label})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_recordings(folder: Path, num_rows: int = 48) -> Path:
    """Save a base and rows side by side, as ``ast`` and ``vowels.jsonl``."""
    save_ast(folder / "ast")
    write_vowels(folder / "vowels.jsonl", num_rows)
    return folder


def audio_spec(home: Path, **fields: Any) -> RunSpec:
    """A run of a few steps on vowels."""
    rows = home / "vowels.jsonl"
    source = {"path": str(rows), "type": "audio"}
    return tiny_spec(home / "ast", rows, **{"datasets": [source], **TASK, **fields})
