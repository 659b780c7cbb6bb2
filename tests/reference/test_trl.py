"""Eight steps of a run against TRL's SFTTrainer with PEFT: same rows in the same order, same start, same settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from tests.reference.trl_run import Recorded, in_peft, settings_of
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, solo_step, tiny_spec, write_chats

pytestmark = pytest.mark.slow
NUM_STEPS = 8


class Trained(Recorded, SFTTrainer):
    """TRL's, recorded."""


def rows_of(batch: Batch) -> list[dict[str, list[int]]]:
    """A batch's rows without padding, labels at their own token as TRL takes them."""
    rows = []
    for ids, labels, segments in zip(batch.input_ids_BT, batch.labels_BT, batch.segment_ids_BT, strict=True):
        length = int((segments > 0).sum())
        rows.append({"input_ids": ids[:length].tolist(), "labels": [-100, *labels[: length - 1].tolist()]})
    return rows


def theirs(spec: RunSpec, rows: Batches, start: Adapter, folder: Path) -> list[float]:
    model, settings = in_peft(spec, start), SFTConfig(**settings_of(spec, folder))
    dataset = Dataset.from_list(
        [row for at in range(NUM_STEPS) for batch in rows.step(at, 0, 1) for row in rows_of(batch)]
    )
    trainer = Trained(model, settings, train_dataset=dataset, processing_class=load_tokenizer(Path(spec.base_model)))
    trainer.train()
    parts = spec.gradient_accumulation_steps
    return [sum(trainer.losses[at : at + parts]) for at in range(0, len(trainer.losses), parts)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_are_those_of_trls_trainer(tmp_path: Path, accumulation: int):
    base, chats = save_base(tmp_path / "base", num_hidden_layers=2), write_chats(tmp_path / "rows.jsonl", 40)
    settings = {"gradient_accumulation_steps": accumulation, "lr_scheduler": "cosine", "max_steps": NUM_STEPS}
    spec = tiny_spec(base, chats, warmup_steps=2, **settings)
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    losses = []
    for step in range(NUM_STEPS):
        rate = learning_rate(spec, step, NUM_STEPS)
        losses.append(solo_step(trainee, rows.step(step, 0, 1), step, rate).loss)
    assert losses == pytest.approx(theirs(spec, rows, start, tmp_path / "trl"), abs=1e-5)
    assert len(losses) == NUM_STEPS
