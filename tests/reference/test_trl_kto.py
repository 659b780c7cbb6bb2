"""Six steps of KTO against TRL's KTOTrainer with PEFT: same answers, same mismatched ones, same start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from tests.reference.peft_steps import BASES
from tests.reference.trl_run import Recorded, in_peft, settings_of
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, solo_step, tiny_spec, write_rated

NUM_STEPS = 6
TOLD = {"rewards/chosen": "reward_desirable", "rewards/rejected": "reward_undesirable", "kl": "kl"}


class AsTheyAre(Recorded, KTOTrainer):
    """Takes tokens as they are, and keeps what is told of each step."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.told: list[dict[str, float]] = []
        super().__init__(*args, **settings)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        self.told.append(dict(logs))


def texts_of(batches: list[Batch]) -> dict[int, tuple[list[int], list[int]]]:
    """Prompt and completion of each row; a label stands one place before its token, a line break follows the last."""
    found = {}
    for batch in batches:
        for ids, labels, (row,) in zip(batch.input_ids_BT, batch.labels_BT, batch.row_ids, strict=True):
            answer = (labels != -100).nonzero().flatten() + 1
            start, end = int(answer[0]), int(answer[-1]) + 1
            found[row] = ids[:start].tolist(), ids[start:end].tolist()
    return found


def answers_of(rows: Batches, step: int) -> list[dict[str, Any]]:
    """A step's answers as TRL takes them."""
    batches = rows.step(step, 0, 1)
    rated = {
        row: is_desirable
        for each in batches
        for (row,), is_desirable in zip(each.row_ids, each.is_desirable, strict=True)
    }
    own, other = texts_of(batches), texts_of(rows.mismatched(step, 0, 1))
    assert {row: prompt for row, (prompt, _) in own.items()} == {row: prompt for row, (prompt, _) in other.items()}
    # As TRL has it: the same completions, none under its own prompt.
    assert sorted(answer for _, answer in own.values()) == sorted(answer for _, answer in other.values())
    assert all(own[row][1] != other[row][1] for row in own)
    return [
        {
            "prompt_ids": prompt,
            "completion_ids": answer,
            "KL_completion_ids": other[row][1],
            "label": rated[row],
        }
        for row, (prompt, answer) in own.items()
    ]


def theirs(spec: RunSpec, rows: Batches, start: Adapter, folder: Path) -> AsTheyAre:
    weights = {"desirable_weight": spec.kto_desirable_weight, "undesirable_weight": spec.kto_undesirable_weight}
    settings = KTOConfig(**settings_of(spec, folder), beta=spec.rl_beta, **weights, logging_steps=1)
    answers = [answer for step in range(NUM_STEPS) for answer in answers_of(rows, step)]
    trainer = AsTheyAre(
        in_peft(spec, start),
        args=settings,
        train_dataset=Dataset.from_list(answers),
        processing_class=load_tokenizer(Path(spec.base_model)),
    )
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("on", BASES)
def test_losses_are_those_of_trls_trainer(tmp_path: Path, on: str):
    base, rated = save_base(tmp_path / "base"), write_rated(tmp_path / "rated.jsonl", 60)
    source = {"path": str(rated), "type": "unpaired_preference"}
    objective = {"rl": "kto", "rl_beta": 0.3, "kto_desirable_weight": 3.0, "kto_undesirable_weight": 0.9}
    settings = {"micro_batch_size": 8, "lr_scheduler": "cosine", "warmup_steps": 2, "max_steps": NUM_STEPS}
    spec = tiny_spec(base, rated, datasets=[source], **objective, **settings, **BASES[on], learning_rate=1e-2)
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    found = [
        solo_step(trainee, rows.step(at, 0, 1), at, learning_rate(spec, at, NUM_STEPS), rows.mismatched(at, 0, 1))
        for at in range(NUM_STEPS)
    ]
    trainer = theirs(spec, rows, start, tmp_path / "trl")
    assert [each.loss for each in found] == pytest.approx(trainer.losses, abs=1e-5)
    assert max(each.metrics["kl"] for each in found) > 0.05, "the reference point was put to the test"
    told = [logs for logs in trainer.told if "kl" in logs]
    for name, ours in TOLD.items():
        assert [each.metrics[ours] for each in found] == pytest.approx([logs[name] for logs in told], abs=1e-4), name
    assert found[-1].loss < found[0].loss
