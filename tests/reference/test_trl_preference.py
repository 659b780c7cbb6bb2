"""Six steps of DPO, IPO and ORPO against TRL's trainers: same pairs in the same order, same start.

With PEFT's adapter on each kind of base; under ORPO, which has no reference, also of all weights.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from raylora.data.batches import Batches
from raylora.data.collate import Batch
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.model.adapter.bank import Adapter
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from raylora.train.step import StepResult
from tests.reference.galore_oracle import GALORE, galore, needs_galore
from tests.reference.peft_steps import BASES
from tests.reference.trl_run import Recorded, in_peft, settings_of
from tests.unit.train.tiny_run import build_tiny, open_rows, save_base, solo_step, tiny_spec, write_pairs

pytestmark = pytest.mark.slow
NUM_STEPS = 6


class Dpo(Recorded, DPOTrainer):
    """Takes tokens as they are."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset.remove_columns("rest_ids")


class Orpo(Recorded, ORPOTrainer):
    """Takes tokens as they are, with the cross-entropy of answers alone or, as TRL has it, of whole chosen texts.

    Both are kept.
    """

    def __init__(self, *args: Any, with_prompts: bool, **settings: Any) -> None:
        self.with_prompts = with_prompts
        self.of_all: list[float] = []
        self.of_answers: list[float] = []
        super().__init__(*args, **settings)

    def tokenize_row(self, feature: dict[str, list[int]], model: Any = None) -> dict[str, list[int]]:
        prompt, row = feature["prompt_ids"], dict[str, list[int]]()
        for side in ("chosen", "rejected"):
            answer, rest = feature[f"{side}_ids"], feature["rest_ids"]
            row[f"{side}_input_ids"] = prompt + answer + rest
            row[f"{side}_labels"] = [-100] * len(prompt) + answer + [-100] * len(rest)
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer + rest)
        return row

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        chosen, rejected, logits_PTV, others_PTV, of_all = super().concatenated_forward(model, batch)
        labels_PT = batch["chosen_labels"][:, 1:]
        logits_PTV = logits_PTV[:, : labels_PT.shape[1]]  # rejected answers may be longer
        of_answers = F.cross_entropy(logits_PTV.flatten(0, 1), labels_PT.flatten())
        self.of_all.append(float(of_all.detach()))
        self.of_answers.append(float(of_answers.detach()))
        return chosen, rejected, logits_PTV, others_PTV, of_all if self.with_prompts else of_answers


def pairs_of(batch: Batch) -> list[dict[str, list[int]]]:
    """A batch's pairs as TRL takes them: a prompt and two answers, and what follows both where all is learned."""
    pairs = []
    is_answer_BT = batch.labels_BT != -100
    if batch.weights_BT is not None:
        is_answer_BT &= batch.weights_BT > 0
    for ids, is_answer, segments, rows in zip(
        batch.input_ids_BT, is_answer_BT, batch.segment_ids_BT, batch.row_ids, strict=True
    ):
        texts = []
        for segment in range(1, len(rows) + 1):
            # A label stands one place before its token; what follows the last (a line break) TRL would learn.
            answer = is_answer[segments == segment].nonzero().flatten() + 1
            start, end = int(answer[0]), int(answer[-1]) + 1
            of_text = ids[segments == segment].tolist()
            texts.append((of_text[:start], of_text[start:end], of_text[end:] if batch.weights_BT is not None else []))
        for (prompt, chosen, rest), (_, rejected, _) in zip(texts[::2], texts[1::2], strict=True):
            pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "rest_ids": rest})
    return pairs


def ours(spec: RunSpec, rows: Batches) -> tuple[Adapter, list[StepResult]]:
    """What was trained at its start, and its steps."""
    trainee = build_tiny(spec)
    start = trainee.bank.export(0)
    steps = [
        solo_step(trainee, rows.step(step, 0, 1), step, learning_rate(spec, step, NUM_STEPS))
        for step in range(NUM_STEPS)
    ]
    return start, steps


def theirs(
    spec: RunSpec, rows: Batches, model: nn.Module, folder: Path, optimizer: torch.optim.Optimizer | None = None
) -> Dpo | Orpo:
    """TRL's trainer of the objective, after its steps; with its own optimizer where none is given."""
    settings = {**settings_of(spec, folder), "beta": spec.rl_beta, "logging_steps": 1}
    pairs = Dataset.from_list(
        [pair for at in range(NUM_STEPS) for batch in rows.step(at, 0, 1) for pair in pairs_of(batch)]
    )
    given = {"train_dataset": pairs, "processing_class": load_tokenizer(Path(spec.base_model))}
    given["optimizers"] = (optimizer, None)
    if spec.rl == "orpo":
        config = ORPOConfig(**settings)
        trainer: Dpo | Orpo = Orpo(model, args=config, with_prompts=spec.train_on_inputs, **given)
    else:
        loss_type = {"dpo": "sigmoid", "ipo": "ipo"}[str(spec.rl)]
        trainer = Dpo(model, args=DPOConfig(**settings, loss_type=loss_type), **given)
    trainer.train()
    return trainer


def spec_of(home: Path, rl: str, **fields: object) -> RunSpec:
    base, pairs = save_base(home / "base", num_hidden_layers=2), write_pairs(home / "pairs.jsonl", 40)
    source = {"path": str(pairs), "type": "preference"}
    settings = {"micro_batch_size": 4, "lr_scheduler": "cosine", "warmup_steps": 2, "max_steps": NUM_STEPS}
    return tiny_spec(base, pairs, datasets=[source], rl=rl, rl_beta=0.2, **settings, **fields)


@pytest.mark.parametrize("on", BASES)
@pytest.mark.parametrize("rl", ["dpo", "ipo", "orpo"])
def test_losses_and_metrics_are_those_of_trls_trainer(tmp_path: Path, rl: str, on: str):
    spec = spec_of(tmp_path, rl, **BASES[on])
    rows, _ = open_rows(spec, tmp_path / "cache")
    start, found = ours(spec, rows)
    trainer = theirs(spec, rows, in_peft(spec, start), tmp_path / "trl")
    assert [each.loss for each in found] == pytest.approx(trainer.losses, abs=1e-5)
    assert found[-1].loss < found[0].loss - 0.1
    told = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    for name, metric in (("reward_accuracy", "rewards/accuracies"), ("reward_margin", "rewards/margins")):
        wanted = [entry[metric] for entry in told]
        assert [each.metrics[name] for each in found] == pytest.approx(wanted, abs=1e-4), metric
        assert len(set(wanted)) > 1, "it was put to the test"
    if isinstance(trainer, Orpo):
        gaps = [abs(one - other) for one, other in zip(trainer.of_all, trainer.of_answers, strict=True)]
        assert min(gaps) > 0.05, "TRL's own is another loss"


@pytest.mark.parametrize("on", BASES)
def test_orpo_with_prompts_is_trls_own(tmp_path: Path, on: str):
    spec = spec_of(tmp_path, "orpo", train_on_inputs=True, **BASES[on])
    rows, _ = open_rows(spec, tmp_path / "cache")
    start, found = ours(spec, rows)
    trainer = theirs(spec, rows, in_peft(spec, start), tmp_path / "trl")
    assert isinstance(trainer, Orpo)
    assert [each.loss for each in found] == pytest.approx(trainer.losses, abs=1e-5)
    told = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert [each.metrics["reward_margin"] for each in found] == pytest.approx(told, abs=1e-4)
    gaps = [abs(one - other) for one, other in zip(trainer.of_all, trainer.of_answers, strict=True)]
    assert max(gaps) > 0.05, "that of answers alone is another loss"


@pytest.mark.parametrize("kind", ["full", pytest.param("galore", marks=needs_galore)])
def test_all_weights_learn_from_pairs_as_in_trls_trainer(tmp_path: Path, kind: str):
    """With the optimizer given, since TRL's own takes no decay of biases and norms."""
    asked = GALORE if kind == "galore" else {}
    spec = spec_of(tmp_path, "orpo", adapter="full", learning_rate=2e-3, weight_decay=0.05, **asked)
    rows, _ = open_rows(spec, tmp_path / "cache")
    _, found = ours(spec, rows)
    model = LlamaForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32)
    make = galore(model, 2e-3) if kind == "galore" else partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.05)
    trainer = theirs(spec, rows, model, tmp_path / "trl", make(model.parameters()))
    assert [each.loss for each in found] == pytest.approx(trainer.losses, abs=1e-5)
    assert found[-1].loss < found[0].loss - 0.1
