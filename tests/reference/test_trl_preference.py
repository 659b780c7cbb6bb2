"""Six steps of DPO and of IPO against TRL's DPOTrainer with PEFT: same pairs in the same order, same start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.data.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from tests.reference.trl_run import Recorded, in_peft, settings_of
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, solo_step, tiny_spec, write_pairs

pytestmark = pytest.mark.slow
NUM_STEPS = 6


class AsTheyAre(Recorded, DPOTrainer):
    """Takes tokens as they are."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def pairs_of(batch: Batch) -> list[dict[str, list[int]]]:
    """A batch's pairs as TRL takes them: a prompt and two answers."""
    pairs = []
    for ids, labels, segments, rows in zip(
        batch.input_ids_BT, batch.labels_BT, batch.segment_ids_BT, batch.row_ids, strict=True
    ):
        texts = []
        for segment in range(1, len(rows) + 1):
            # A label stands one place before its token; what follows the last (a line break) TRL would learn.
            answer = (labels[segments == segment] != -100).nonzero().flatten() + 1
            start, end = int(answer[0]), int(answer[-1]) + 1
            of_text = ids[segments == segment].tolist()
            texts.append((of_text[:start], of_text[start:end]))
        for (prompt, chosen), (_, rejected) in zip(texts[::2], texts[1::2], strict=True):
            pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return pairs


def theirs(spec: RunSpec, rows: Batches, start: dict[str, torch.Tensor], folder: Path) -> list[float]:
    loss_type = {"dpo": "sigmoid", "ipo": "ipo"}[str(spec.rl)]
    model = in_peft(spec, start)
    settings = DPOConfig(**settings_of(spec, folder), beta=spec.rl_beta, loss_type=loss_type)
    pairs = [pair for at in range(NUM_STEPS) for batch in rows.step(at, 0, 1) for pair in pairs_of(batch)]
    tokenizer = load_tokenizer(Path(spec.base_model))
    trainer = AsTheyAre(model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    return trainer.losses


@pytest.mark.parametrize("rl", ["dpo", "ipo"])
def test_losses_are_those_of_trls_trainer(tmp_path: Path, rl: str):
    base, pairs = save_base(tmp_path / "base", num_hidden_layers=2), write_pairs(tmp_path / "pairs.jsonl", 40)
    source = {"path": str(pairs), "type": "preference"}
    settings = {"micro_batch_size": 4, "lr_scheduler": "cosine", "warmup_steps": 2, "max_steps": NUM_STEPS}
    spec = tiny_spec(base, pairs, datasets=[source], rl=rl, rl_beta=0.2, **settings)
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee = build_tiny(spec)
    start = trainee.bank.export(0).tensors
    found = [
        solo_step(trainee, rows.step(step, 0, 1), step, learning_rate(spec, step, NUM_STEPS)).loss
        for step in range(NUM_STEPS)
    ]
    assert found == pytest.approx(theirs(spec, rows, start, tmp_path / "trl"), abs=1e-5)
    assert found[-1] < found[0] - 0.1
