"""A loss that is not finite: it stops the run, names step and rows, and leaves the checkpoints that are good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.errors import NonFiniteLossError, StoreError
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.train.events import Event
from raylora.train.loop import Training
from raylora.train.snapshot import Progress, take
from tests.unit.train.solo_run import DIGESTS, Recorder, spec_of, start
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_base, save_materials, tiny_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("not-finite"), 60)


@pytest.mark.parametrize("save_steps", [None, 2])
def test_a_loss_that_is_not_a_number_stops_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_steps: int | None
):
    spec = spec_of(home, save_steps=save_steps, gradient_accumulation_steps=2)
    hooks = Recorder(open_store(str(tmp_path)))
    trainee = build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    training = Training(trainee, load_tokenizer(home / "base"), rows, validation, hooks, DIGESTS)
    emit = hooks.emit

    def poison(event: Event) -> None:
        emit(event)
        if event.kind == "step" and event.step == 3:
            next(iter(trainee.bank.parameters(0).values())).data[0, 0] = float("nan")

    monkeypatch.setattr(hooks, "emit", poison)
    with pytest.raises(NonFiniteLossError) as caught:
        training.run()
    said = str(caught.value)
    asked = sorted(row for batch in rows.step(3, 0, 1) for line in batch.row_ids for row in line)
    assert "loss is nan at step 4" in said
    assert str(asked) in said
    places = "; ".join(f"{home / 'rows.jsonl'}, line {row + 1}" for row in asked[:3])
    assert len(asked) == 4
    assert f"The rows are: {places}; and 1 more." in said
    assert ("step-00000002" in said) == (save_steps == 2)
    assert ("none was saved yet" in said) == (save_steps is None)


@pytest.mark.parametrize(
    ("warmup_steps", "good"), [(1, r"\S+step-00000001"), (0, r"none; \S+step-00000001 gave this loss")]
)
def test_a_checkpoint_is_good_once_its_weights_gave_a_finite_loss(
    home: Path, tmp_path: Path, warmup_steps: int, good: str
):
    """The step that ruins the weights is saved before anybody can know: the error names the checkpoint before it."""
    spec = spec_of(home, learning_rate=1e30, warmup_steps=warmup_steps, save_steps=1, val_set_size=0.0)
    said = f"at step {warmup_steps + 2}.*Last good checkpoint: {good}$"
    with pytest.raises(NonFiniteLossError, match=said):
        start(spec, home, tmp_path)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    assert checkpoint.step == 1, "what the error names is what the run goes on from"
    with pytest.raises(NonFiniteLossError, match=said):
        start(spec, home, tmp_path, checkpoint=checkpoint)


def test_a_run_that_goes_on_from_ruined_weights_falls_back(home: Path, tmp_path: Path):
    """Stopped before a loss could speak against the newest checkpoint."""
    spec = spec_of(home, learning_rate=1e30, warmup_steps=1, save_steps=1, val_set_size=0.0)
    store = open_store(str(tmp_path))
    start(spec, home, tmp_path, stop_after=2)
    for step in (2, 1):
        checkpoint = load_latest(store)
        assert checkpoint is not None
        assert checkpoint.step == step
        with pytest.raises(NonFiniteLossError, match=r"at step 3.*Last good checkpoint: \S+step-00000001$"):
            start(spec, home, tmp_path, checkpoint=checkpoint)


def test_weights_that_were_validated_are_good(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows of the next step may be to blame."""
    spec = spec_of(home, eval_steps=2, save_steps=2)
    hooks, trainee = Recorder(open_store(str(tmp_path))), build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    training = Training(trainee, load_tokenizer(home / "base"), rows, validation, hooks, DIGESTS)

    def poison_after_the_save() -> None:
        if training._member.settle():
            next(iter(trainee.bank.parameters(0).values())).data[0, 0] = float("nan")

    monkeypatch.setattr(hooks, "wish", poison_after_the_save)
    with pytest.raises(NonFiniteLossError, match=r"at step 3.*Last good checkpoint: \S+step-00000002$"):
        training.run()


def test_a_store_that_is_away_does_not_hide_the_loss(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Recorder, step: int) -> str:
        raise StoreError("s3://b does not answer")

    monkeypatch.setattr(Recorder, "fall_back", refuse)
    spec = spec_of(home, learning_rate=1e30, warmup_steps=0, max_steps=1)
    said = r"validation loss is nan after step 1.*not known \(s3://b does not answer\)"
    with pytest.raises(NonFiniteLossError, match=said):
        start(spec, home, tmp_path)


def test_a_validation_loss_that_is_not_a_number_stops_the_run(home: Path, tmp_path: Path):
    spec = spec_of(home, learning_rate=1e30, warmup_steps=0, max_steps=1)
    with pytest.raises(NonFiniteLossError, match=r"validation loss is nan after step 1.*none was saved yet"):
        start(spec, home, tmp_path)


@pytest.mark.parametrize(
    ("val_set_size", "said"), [(8, "validation loss is nan after step 0"), (0, "at step 1, in the")]
)
def test_a_base_whose_first_pass_is_not_finite_is_told_as_such(
    home: Path, tmp_path: Path, val_set_size: int, said: str
):
    base = save_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    spec = tiny_spec(base, home / "rows.jsonl", val_set_size=val_set_size)
    with pytest.raises(NonFiniteLossError, match=said):
        start(spec, home, tmp_path)


def test_a_resumed_run_knows_the_checkpoint_it_came_from(home: Path, tmp_path: Path):
    start(spec_of(home), home, tmp_path, stop_after=3)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    with pytest.raises(NonFiniteLossError, match=r"at step 5.*Last good checkpoint: .*step-00000003"):
        start(spec_of(home, learning_rate=1e30, val_set_size=8), home, tmp_path, checkpoint=checkpoint)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_what_is_not_finite_updates_nothing(home: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(home)
    trainee = build_tiny(spec)
    rows, _ = open_rows(spec, home / "cache")
    run_steps(trainee, rows, range(2))
    if how == "loss":
        poisoned = list(trainee.bank.parameters(0).values())[-1]
        poisoned.data[0, 0] = float("inf")
    else:
        backward = trainee.steppers[0].backward
        monkeypatch.setattr(trainee.steppers[0], "backward", lambda loss: backward(loss * float("inf")))
    before = take(trainee, 0, Progress(), {}).tensors
    with pytest.raises(NonFiniteLossError, match="norm is" if how == "gradient" else "loss is"):
        run_steps(trainee, rows, range(2, 3))
    after = take(trainee, 0, Progress(), {}).tensors
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
