"""The loop on one process: stops, saves, resumes bit for bit, refuses what is not finite, evaluates as a plain loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from raylora.data.tokenizer import load_tokenizer
from raylora.errors import NonFiniteLossError, StoreError
from raylora.model.route import Span
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, fall_back, load_latest, save_checkpoint
from raylora.store.contract import Store
from raylora.train.build import Trainee
from raylora.train.evaluate import evaluate
from raylora.train.events import Event
from raylora.train.loop import Training
from raylora.train.member import Outcome
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_base, save_materials, save_opt, tiny_spec

DIGESTS = {"base": "b" * 64, "data": "d" * 64}


@dataclass
class Recorder:
    """Keeps events in a list and checkpoints in a folder; asks to stop after a step."""

    store: Store
    stop_after: int | None = None
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> bool:
        done = max((event.step for event in self.events), default=0)
        return self.stop_after is not None and done >= self.stop_after

    def save(self, checkpoint: Checkpoint) -> str:
        return save_checkpoint(self.store, checkpoint, keep=2)

    def fall_back(self, step: int) -> str:
        return fall_back(self.store, step)

    def values(self, kind: str, name: str) -> list[float]:
        return [event.values[name] for event in self.events if event.kind == kind]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("loop"), 60)


def spec_of(home: Path, base: str = "base", **fields: object) -> RunSpec:
    return tiny_spec(home / base, home / "rows.jsonl", **{"val_set_size": 8, "max_steps": 6, **fields})


def start(
    spec: RunSpec, home: Path, folder: Path, stop_after: int | None = None, checkpoint: Checkpoint | None = None
) -> tuple[Recorder, Outcome, Trainee]:
    hooks = Recorder(open_store(str(folder)), stop_after)
    trainee = build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    tokenizer = load_tokenizer(Path(spec.base_model))
    outcome = Training(trainee, tokenizer, rows, validation, hooks, DIGESTS).run(checkpoint)
    return hooks, outcome, trainee


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
    ],
    ids=["plain", "nf4-dropout-binned", "peft-dropout", "base-with-dropout"],
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


def test_a_run_that_does_not_get_better_stops_early(home: Path, tmp_path: Path):
    # At this rate nothing moves the loss in its last digits, so each evaluation is no better than the one before.
    spec = spec_of(home, learning_rate=1e-30, eval_steps=1, early_stopping_patience=2, max_steps=20)
    hooks, outcome, _ = start(spec, home, tmp_path)
    assert outcome.ending == "early_stopped"
    assert outcome.progress.step == 2
    assert len(set(hooks.values("eval", "eval_loss"))) == 1


@pytest.mark.parametrize("save_steps", [None, 2])
def test_a_loss_that_is_not_a_number_stops_the_run(home: Path, tmp_path: Path, save_steps: int | None):
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

    hooks.emit = poison  # type: ignore[method-assign]
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


def test_weights_that_were_validated_are_good(home: Path, tmp_path: Path):
    """Rows of the next step may be to blame."""
    spec = spec_of(home, eval_steps=2, save_steps=2)
    hooks, trainee = Recorder(open_store(str(tmp_path))), build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    training = Training(trainee, load_tokenizer(home / "base"), rows, validation, hooks, DIGESTS)
    save = hooks.save

    def save_and_poison(checkpoint: Checkpoint) -> str:
        uri = save(checkpoint)
        next(iter(trainee.bank.parameters(0).values())).data[0, 0] = float("nan")
        return uri

    hooks.save = save_and_poison  # type: ignore[method-assign]
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
    adapter, moments = trainee.bank.export(0).tensors, trainee.steppers[0].state()
    with pytest.raises(NonFiniteLossError, match="norm is" if how == "gradient" else "loss is"):
        run_steps(trainee, rows, range(2, 3))
    for before, after in ((adapter, trainee.bank.export(0).tensors), (moments, trainee.steppers[0].state())):
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_checkpoint_of_other_data_is_refused(home: Path, tmp_path: Path):
    _, _, _ = start(spec_of(home, max_steps=1), home, tmp_path)
    checkpoint = load_latest(open_store(str(tmp_path)))
    assert checkpoint is not None
    other = Checkpoint(
        checkpoint.step, checkpoint.tensors, {**checkpoint.state, "digests": {**DIGESTS, "data": "e" * 64}}
    )
    with pytest.raises(StoreError, match="its data digest is eeee"):
        start(spec_of(home, max_steps=2), home, tmp_path, checkpoint=other)


@pytest.mark.parametrize("fields", [{}, {"sample_packing": True}], ids=["rows", "bins"])
def test_evaluation_is_a_plain_loop_over_rows(home: Path, fields: dict[str, object]):
    spec = spec_of(home, lora_dropout=0.5, **fields)
    trainee = build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    assert validation is not None
    run_steps(trainee, rows, range(3))
    found = evaluate(trainee, {0: validation})[0]
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
