"""Six steps of a reward model against TRL's RewardTrainer with PEFT: same pairs in the same order, same start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from tests.reference.trl_run import Recorded, settings_of
from tests.unit.train.tiny_heads import head_spec, save_family
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step, write_pairs

NUM_STEPS = 6


class AsTheyAre(Recorded, RewardTrainer):
    """Takes tokens as they are."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def pairs_of(batch: Batch) -> list[dict[str, list[int]]]:
    return [
        {"chosen_ids": ids[segments == 1].tolist(), "rejected_ids": ids[segments == 2].tolist()}
        for ids, segments in zip(batch.input_ids_BT, batch.segment_ids_BT, strict=True)
    ]


def theirs(spec: RunSpec, rows: Batches, start: Adapter, folder: Path) -> tuple[list[float], list[dict[str, Any]]]:
    config = LoraConfig(
        r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules=start.config["target_modules"], task_type="SEQ_CLS",
        modules_to_save=["score"],
    )  # fmt: skip
    base = AutoModelForSequenceClassification.from_pretrained(spec.base_model, num_labels=1, dtype=torch.float32)
    model = get_peft_model(base, config)
    set_peft_model_state_dict(model, start.tensors)
    settings = RewardConfig(**settings_of(spec, folder), logging_steps=1)
    pairs = [pair for at in range(NUM_STEPS) for batch in rows.step(at, 0, 1) for pair in pairs_of(batch)]
    tokenizer = load_tokenizer(Path(spec.base_model))
    trainer = AsTheyAre(model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    return trainer.losses, [entry for entry in trainer.state.log_history if "margin" in entry]


@pytest.mark.slow
def test_losses_and_metrics_are_those_of_trls_trainer(tmp_path: Path):
    save_family(tmp_path / "llama", "llama")
    write_pairs(tmp_path / "pairs.jsonl", 40)
    settings = {"micro_batch_size": 4, "lr_scheduler": "cosine", "warmup_steps": 2, "max_steps": NUM_STEPS}
    spec = head_spec(tmp_path, "llama", "reward", **settings)
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    found = [
        solo_step(trainee, rows.step(step, 0, 1), step, learning_rate(spec, step, NUM_STEPS))
        for step in range(NUM_STEPS)
    ]
    losses, told = theirs(spec, rows, start, tmp_path / "trl")
    assert [result.loss for result in found] == pytest.approx(losses, abs=1e-5)
    assert found[-1].loss < found[0].loss - 0.1
    for ours, (metric, theirs_metric) in (("reward_accuracy", ("accuracy", 1e-6)), ("reward_margin", ("margin", 1e-4))):
        wanted = [float(entry[metric]) for entry in told]
        assert [result.metrics[ours] for result in found] == pytest.approx(wanted, abs=theirs_metric)
