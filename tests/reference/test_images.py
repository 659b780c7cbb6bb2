"""A vision transformer on scikit-learn's digits against transformers' model with PEFT's adapter, and its measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoImageProcessor

from raylora.train.evaluate import evaluate
from tests.reference.head_oracle import check_ten_steps, in_peft, logits_of
from tests.reference.peft_steps import BASES, SETTINGS
from tests.unit.train.tiny_images import image_spec, save_images
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize(
    "base", [pytest.param(base, marks=[] if base == "nf4" else pytest.mark.slow) for base in BASES]
)
def test_ten_steps_are_those_of_transformers_model_with_pefts_adapter(home: Path, base: str, tmp_path: Path):
    check_ten_steps(image_spec(home, **SETTINGS, **BASES[base]), home, tmp_path)


def test_pixels_are_those_of_transformers_processor(home: Path):
    spec = image_spec(home, micro_batch_size=6)
    processor = AutoImageProcessor.from_pretrained(spec.base_model)
    batches, _ = open_rows(spec, home / "cache")
    (batch,) = batches.step(0, 0, 1)
    files = [home / "images" / f"{row}.png" for (row,) in batch.row_ids]
    theirs = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")["pixel_values"]
    assert batch.values is not None
    assert torch.equal(batch.values, theirs)
    assert batch.num_tokens == 6 * (1 + 16) and batch.num_label_tokens == 6


def test_accuracy_and_f1_are_scikit_learns(home: Path):
    spec = image_spec(home, val_set_size=17, micro_batch_size=4, load_in_4bit=True)
    rows, validation = open_rows(spec, home / "cache")
    assert validation is not None
    trainee = build_tiny(spec)
    run_steps(trainee, rows, range(24))
    found = evaluate(trainee, {0: validation})[0]
    model = in_peft(spec, trainee.export(0)).eval()
    batches = list(validation.once(0, 1))
    told = torch.cat([logits_of(model, spec, batch) for batch in batches]).argmax(1)
    labels = torch.cat([batch.labels_BT[batch.labels_BT != -100] for batch in batches])
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(labels, told))
    assert found.metrics["f1"] == pytest.approx(f1_score(labels, told, average="macro"))
    assert 0 < found.metrics["accuracy"] < 1
