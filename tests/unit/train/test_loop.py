"""The loop on one process: stops, saves, resumes bit for bit, evaluates as a plain loop."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raylora.errors import StoreError
from raylora.model.rows.route import Span
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, load_checkpoint, load_latest
from raylora.store.kept import complete_steps
from raylora.train.evaluate import evaluate
from raylora.train.snapshot import restore
from tests.unit.train.solo_run import DIGESTS, Recorder, spec_of, start
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_materials, save_opt

OWN_FIELDS = {"lora_r": 16, "lora_alpha": 32}
"""At their defaults, as they stand beside a block of PEFT's."""
VBLORA = {
    "peft_type": "VBLORA", "r": 4, "num_vectors": 8, "vector_length": 16, "target_modules": ["k_proj", "down_proj"],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("loop"), 60)


def test_a_run_tells_what_it_does(home: Path, tmp_path: Path):
    spec = spec_of(home, eval_steps=3, save_steps=2, sample_prompts=["the model"], sample_max_new_tokens=4)
    hooks, outcome, _ = start(spec, home, tmp_path)
    assert outcome.ending == "finished"
    assert [event.step for event in hooks.events if event.kind == "step"] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in hooks.events if event.kind == "eval"] == [0, 3, 6]
    assert [event.step for event in hooks.events if event.kind == "checkpoint"] == [2, 4, 6]
    assert len(outcome.samples_after) == len(outcome.progress.samples_before) == 1
    evals = hooks.values("eval", "eval_loss")
    assert (outcome.progress.eval_loss_before, outcome.progress.eval_loss) == (evals[0], evals[-1])
    assert evals[-1] < evals[0]
    assert outcome.progress.num_tokens == sum(hooks.values("step", "num_tokens"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"load_in_4bit": True, "lora_dropout": 0.2, "sample_packing": True},
        {"adapter_bank": "peft", "lora_dropout": 0.2, "gradient_accumulation_steps": 2},
        {"base": "opt"},
        {"optimizer": "adamw_bnb_8bit", "loraplus_lr_ratio": 4},
        {**OWN_FIELDS, "peft": {**VBLORA, "vblora_dropout": 0.2, "save_only_topk_weights": True}},
        {**OWN_FIELDS, "load_in_4bit": True, "peft": {"peft_type": "SHIRA", "r": 2, "target_modules": ["q_proj"]}},
    ],
    ids=["plain", "nf4-dropout-binned", "peft-dropout", "base-with-dropout", "8-bit", "vblora", "nf4-shira"],
)
def test_resumed_is_uninterrupted_bit_for_bit(home: Path, tmp_path: Path, fields: dict[str, object]):
    save_opt(home / "opt")
    spec = spec_of(home, **fields)
    whole, _, end = start(spec, home, tmp_path / "whole")
    first, stopped, _ = start(spec, home, tmp_path / "cut", stop_after=3)
    checkpoint = load_latest(open_store(str(tmp_path / "cut")))
    assert (stopped.ending, checkpoint is not None and checkpoint.step) == ("stopped", 3)
    second, outcome, resumed_end = start(spec, home, tmp_path / "cut", checkpoint=checkpoint)
    losses = first.values("step", "train_loss") + second.values("step", "train_loss")
    assert losses == whole.values("step", "train_loss")
    assert second.values("eval", "eval_loss")[-1] == whole.values("eval", "eval_loss")[-1]
    assert outcome.progress.eval_loss_before == whole.values("eval", "eval_loss")[0]
    for name, tensor in end.bank.export(0).tensors.items():
        assert torch.equal(resumed_end.bank.export(0).tensors[name], tensor), name


@pytest.mark.parametrize(("step", "ending"), [(2, "stopped"), (6, "finished")])
def test_a_run_that_has_nothing_to_do_ends_with_the_checkpoint_it_came_from(
    home: Path, tmp_path: Path, step: int, ending: str
):
    start(spec_of(home), home, tmp_path, stop_after=step)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    hooks, outcome, _ = start(spec_of(home), home, tmp_path, stop_after=step, checkpoint=checkpoint)
    assert (outcome.ending, outcome.progress.step) == (ending, step)
    assert outcome.checkpoint_uri == checkpoint.uri
    assert {event.kind for event in hooks.events} <= {"start", "samples"}


def test_what_is_beyond_the_checkpoint_that_a_run_goes_on_from_is_given_up(home: Path, tmp_path: Path):
    start(spec_of(home, save_steps=2), home, tmp_path)
    store = open_store(str(tmp_path))
    assert complete_steps(store) == [4, 6]
    checkpoint = load_checkpoint(store.uri_of("checkpoints/step-00000004"))
    start(spec_of(home), home, tmp_path, stop_after=4, checkpoint=checkpoint)
    assert complete_steps(store) == [4]


def test_a_run_that_does_not_get_better_stops_early(home: Path, tmp_path: Path):
    # At this rate nothing moves the loss in its last digits, so each evaluation is no better than the one before.
    spec = spec_of(home, learning_rate=1e-30, eval_steps=1, early_stopping_patience=2, max_steps=20)
    hooks, outcome, _ = start(spec, home, tmp_path)
    assert outcome.ending == "early_stopped"
    assert outcome.progress.step == 2
    assert len(set(hooks.values("eval", "eval_loss"))) == 1


def test_a_run_saves_when_it_is_wished_and_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wishes = iter([None, None, "save", "save", None, None])
    monkeypatch.setattr(Recorder, "wish", lambda self: next(wishes))
    hooks, outcome, _ = start(spec_of(home, save_steps=None), home, tmp_path)
    assert outcome.progress.step == 6
    assert [event.step for event in hooks.events if event.kind == "saved"] == [2, 3]
    assert [event.step for event in hooks.events if event.kind == "checkpoint"] == [2, 3, 6]


def test_a_wish_at_a_step_that_is_saved_already_is_answered(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Recorder, "wish", lambda self: "save")
    hooks, _, _ = start(spec_of(home, save_steps=1, max_steps=3), home, tmp_path)
    assert [event.step for event in hooks.events if event.kind == "saved"] == [0, 1, 2]
    assert [event.step for event in hooks.events if event.kind == "checkpoint"] == [0, 1, 2, 3]


def test_a_checkpoint_of_other_data_is_refused(home: Path, tmp_path: Path):
    _, _, _ = start(spec_of(home, max_steps=1), home, tmp_path)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    other = Checkpoint(
        checkpoint.step, checkpoint.tensors, {**checkpoint.state, "digests": {**DIGESTS, "data": "e" * 64}}
    )
    with pytest.raises(StoreError, match="its data digest is eeee"):
        start(spec_of(home, max_steps=2), home, tmp_path, checkpoint=other)


def test_a_checkpoint_of_another_configuration_is_refused_and_one_without_the_digest_is_taken(
    home: Path, tmp_path: Path
):
    start(spec_of(home, max_steps=1), home, tmp_path)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    trainee, mine = build_tiny(spec_of(home)), DIGESTS | {"configuration": "c" * 64}
    assert restore(trainee, 0, checkpoint, mine).step == 1
    digests = DIGESTS | {"configuration": "e" * 64}
    other = replace(checkpoint, state={**checkpoint.state, "digests": digests})
    with pytest.raises(StoreError, match=r"its configuration digest is eeee.* restore the same configuration, or"):
        restore(trainee, 0, other, mine)


@pytest.mark.parametrize("fields", [{}, {"sample_packing": True, "lr_scheduler": "cosine"}], ids=["rows", "bins"])
def test_a_checkpoint_notes_where_schedule_and_rows_go_on(home: Path, tmp_path: Path, fields: dict[str, object]):
    """Held against what the run that was not cut off does next; the last one has no rows to come."""
    spec = spec_of(home, save_steps=4, logging_steps=1, max_steps=30, **fields)
    whole, _, _ = start(spec, home, tmp_path / "whole")
    rates = whole.values("step", "learning_rate")
    rows, _ = open_rows(spec, home / "cache")
    for step in (4, 28, 30):
        start(spec, home, tmp_path / "cut", stop_after=step)
        checkpoint = load_latest(open_store(str(tmp_path / "cut")))
        assert checkpoint is not None and checkpoint.step == step
        noted = checkpoint.state["cursors"]
        assert checkpoint.state["slot"] == 0
        assert {name: cursor["at"]["step"] for name, cursor in noted.items()} == dict.fromkeys(
            ("schedule", "rng", "data"), step
        )
        if step == 30:
            assert "rows_sha256" not in noted["data"]["at"]
            continue
        assert noted["schedule"]["at"]["learning_rate"] == rates[step]
        # Of one rank or two: each row of the step once.
        taken = [[row for b in rows.step(step, rank, 2) for line in b.row_ids for row in line] for rank in range(2)]
        assert sorted(taken[0] + taken[1]) == sorted(rows.rows_of(step).tolist())
        digest = hashlib.sha256(np.asarray(rows.rows_of(step), "<i8").tobytes()).hexdigest()
        assert noted["data"]["at"]["rows_sha256"] == digest


@pytest.mark.parametrize(
    ("name", "value"), [("schedule", {"learning_rate": 0.3}), ("rng", {"generator_seed": 3}), ("data", {"epoch": 9})]
)
def test_a_checkpoint_that_would_go_on_otherwise_is_refused_and_one_without_cursors_is_taken(
    home: Path, tmp_path: Path, name: str, value: dict[str, object]
):
    start(spec_of(home), home, tmp_path, stop_after=2)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    cursors = checkpoint.state["cursors"]
    other = cursors | {name: cursors[name] | {"at": cursors[name]["at"] | value}}
    changed = replace(checkpoint, state={**checkpoint.state, "cursors": other})
    with pytest.raises(StoreError, match=f"step 2: its {name} cursor is .*, this run's is .*start a new run"):
        start(spec_of(home), home, tmp_path, checkpoint=changed)
    old = {key: kept for key, kept in checkpoint.state.items() if key not in ("cursors", "slot")}
    _, outcome, _ = start(spec_of(home), home, tmp_path, checkpoint=replace(checkpoint, state=old))
    assert outcome.progress.step == 6


@pytest.mark.parametrize("fields", [{}, {"sample_packing": True}], ids=["rows", "bins"])
def test_evaluation_is_a_plain_loop_over_rows(home: Path, fields: dict[str, object]):
    spec = spec_of(home, lora_dropout=0.5, **fields)
    trainee = build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    assert validation is not None
    run_steps(trainee, rows, range(3))
    found = evaluate(trainee, {0: validation})[0].loss
    assert trainee.model.training
    total, count = 0.0, 0
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    _, plain = open_rows(spec_of(home), home / "cache")
    assert plain is not None
    with torch.no_grad():
        for row in range(8):
            ids, is_label = plain._rows.tokens(row)
            logits = trainee.model(torch.tensor([ids.tolist()])).logits[0, :-1]
            wanted = torch.from_numpy(is_label)[1:].bool()
            total += float(F.cross_entropy(logits[wanted], torch.tensor(ids.tolist())[1:][wanted], reduction="sum"))
            count += int(wanted.sum())
    assert found == pytest.approx(total / count, abs=1e-5)
