"""Ten steps of a run with a head against transformers' model with PEFT's adapter; the adapter in PEFT's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from raylora.model.export import adapter_files
from raylora.model.rows.route import Span
from raylora.train.forward import Piece, not_training, scores_of
from tests.reference.head_oracle import base_of, check_ten_steps
from tests.reference.peft_steps import BASES, SETTINGS
from tests.unit.train.tiny_heads import ENCODERS, FAMILIES, QUIET, head_spec, save_family, save_home
from tests.unit.train.tiny_run import build_tiny, open_rows, solo_step

pytestmark = pytest.mark.slow

FURTHER = [family for family in ENCODERS if family not in FAMILIES]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_home(tmp_path_factory.mktemp("heads"))
    for family in FURTHER:
        save_family(folder / family, family, **QUIET)
    return folder


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("task", ["seq_cls", "token_cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps_are_those_of_transformers_model_with_pefts_adapter(
    home: Path, family: str, task: str, base: str, tmp_path: Path
):
    check_ten_steps(head_spec(home, family, task, **SETTINGS, **BASES[base]), home, tmp_path)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family", FAMILIES, ids="{}-reward".format)
def test_a_reward_is_what_pefts_loader_gives(home: Path, family: str, base: str, tmp_path: Path):
    """Both texts of a pair, each on a line of its own; and the loss is what the formula makes of them."""
    spec = head_spec(home, family, "reward", micro_batch_size=3, **BASES[base])
    rows, _ = open_rows(spec, home / "cache")
    trainee = build_tiny(spec)
    for step in range(3):
        solo_step(trainee, rows.step(step, 0, 1), step, 5e-3)
    for name, content in adapter_files(trainee.export(0)).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec, list(trainee.export(0).layers)), tmp_path).eval()
    (batch,) = rows.step(4, 0, 1)
    with not_training(trainee):
        (found,) = scores_of(trainee, [Piece(Span(0), batch)])
    texts = [
        ids[segments == segment][None]
        for ids, segments in zip(batch.input_ids_BT, batch.segment_ids_BT, strict=True)
        for segment in (1, 2)
    ]
    with torch.no_grad():
        theirs = torch.cat([loaded(input_ids=text).logits for text in texts])
    torch.testing.assert_close(found.logits_NL, theirs, rtol=0, atol=2e-5)
    loss = -F.logsigmoid(theirs[::2] - theirs[1::2]).mean()
    assert solo_step(trainee, [batch], 4, 0.0).loss == pytest.approx(float(loss), abs=1e-5)


def test_a_bases_own_head_is_started_from_where_it_fits(home: Path, tmp_path: Path):
    """Published for the task with as many classes; not for another task, nor with more of them."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(home / "bert", num_labels=3)
    model.save_pretrained(home / "bert-classifies")
    open_tokenizer(home / "bert", home / "bert-classifies")
    name = "base_model.model.classifier.weight"

    def start(task: str, **fields: Any) -> torch.Tensor:
        return build_tiny(head_spec(home, "bert-classifies", task, **fields)).bank.export(0).tensors[name]

    assert torch.equal(start("seq_cls"), model.classifier.weight)
    assert not torch.equal(start("token_cls"), model.classifier.weight)
    assert start("seq_cls", labels=["words", "numbers", "both", "none"]).shape == (4, 32)
    assert not torch.equal(start("token_cls", seed=1), start("token_cls", seed=2))


def open_tokenizer(start: Path, end: Path) -> None:
    for file in start.glob("tokenizer*"):
        (end / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("family", FURTHER)
def test_further_encoders_are_those_of_transformers(home: Path, family: str, tmp_path: Path):
    check_ten_steps(head_spec(home, family, "seq_cls", **SETTINGS), home, tmp_path)
