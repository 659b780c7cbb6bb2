"""Checkpoints that are written beside training: what is kept, who waits for it, and who hears of a store that fails."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from raylora.errors import StoreError
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, load_checkpoint
from raylora.store.manifest import read_manifest
from raylora.train import writing
from raylora.train.member import Member
from raylora.train.prediction.live_bytes import LiveBytes
from raylora.train.ranks import Ranks
from raylora.train.snapshot import Progress, take
from raylora.train.trainee import Trainee
from raylora.train.writing import Writing
from tests.unit.train.pack_run import admit, assert_same_bits, member_specs, place_tiny, state_of, turn
from tests.unit.train.solo_run import Recorder, spec_of, start
from tests.unit.train.tiny_run import build_tiny, open_rows, run_steps, save_materials

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("writing"), 40)


class SlowStore:
    """Takes a checkpoint and keeps it waiting until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.taken: list[Checkpoint] = []

    def write(self, checkpoint: Checkpoint) -> str:
        self.taken.append(checkpoint)
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return f"step {checkpoint.step}"


def at(step: int) -> Callable[[], Checkpoint]:
    return lambda: Checkpoint(step, {"w": torch.full((2,), float(step))}, {})


def refuse(checkpoint: Checkpoint) -> str:
    raise StoreError(f"no room for step {checkpoint.step}")


def beside(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_what_is_written_of_a_base_that_trains_is_of_the_moment_and_not_of_later_steps(home: Path, tmp_path: Path):
    """Its weights are not copied for a checkpoint before there is one to write."""
    spec = spec_of(home, adapter="full")
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee, store = build_tiny(spec), SlowStore()
    run_steps(trainee, rows, range(2))
    of_moment = {name: weight.detach().clone() for name, weight in trainee.bank.parameters(0).items()}
    writing = Writing(Ranks(), store.write)
    writing.begin(lambda: take(trainee, 0, Progress(step=2), {}))
    assert store.begun.wait(PATIENCE_S)
    run_steps(trainee, rows, range(2, 4))
    store.go.set()
    writing.settle()
    for name, weight in of_moment.items():
        assert torch.equal(store.taken[0].tensors[f"adapter/{name}"], weight), name
        assert not torch.equal(trainee.bank.parameters(0)[name], weight), name


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_training_waits_for_one_copy_of_what_is_kept(home: Path, tmp_path: Path, adapter: str):
    """On the rank that writes; another one that shares the run copies nothing."""
    spec = spec_of(home, adapter=adapter)
    rows, _ = open_rows(spec, tmp_path / "cache")
    trainee, store = build_tiny(spec), SlowStore()
    store.go.set()
    run_steps(trainee, rows, range(2))
    num_bytes = [bytes_made_to_begin(trainee, rank, store) for rank in range(2)]
    (kept,) = store.taken
    assert {name.split("/")[0] for name in kept.tensors} == {"adapter", "optimizer"}
    assert num_bytes == [sum(tensor.nbytes for tensor in kept.tensors.values()), 0]


def bytes_made_to_begin(trainee: Trainee, rank: int, store: SlowStore) -> int:
    """Bytes of the tensors that are made in training's own thread where a checkpoint is begun, as a rank of two."""
    writing, shared = Writing(Ranks(rank), store.write), replace(trainee, slot_ranks=Ranks(rank, 2))
    there = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    with LiveBytes(there) as live:
        writing.begin(lambda: take(shared, 0, Progress(step=2), {}))
    writing.end()
    return live.lap()


def test_training_goes_on_while_the_store_is_at_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is kept are the weights of the moment that it was asked for."""
    (spec,) = member_specs(home, [{"lora_r": 4}], max_steps=6)
    trainee, slow = place_tiny(spec), SlowStore()
    member = admit(trainee, 0, spec, home, tmp_path)
    write = member._hooks.save

    def write_slowly(checkpoint: Checkpoint) -> str:
        slow.write(checkpoint)
        return write(checkpoint)

    monkeypatch.setattr(member._hooks, "save", write_slowly)
    turn(trainee, [member])
    then = {name: tensor.clone() for name, tensor in state_of(trainee, member).items()}
    member.save()
    turn(trainee, [member])
    assert member.progress.step == 2
    slow.go.set()
    kept = load_checkpoint(member.settle())
    assert kept.step == 1
    assert kept.state["progress"]["step"] == 1
    assert_same_bits({name.partition("/")[2]: tensor for name, tensor in kept.tensors.items()}, then)


def test_the_next_checkpoint_waits_for_the_one_before():
    slow = SlowStore()
    writing = Writing(Ranks(), slow.write)
    writing.begin(at(1))
    second = beside(lambda: writing.begin(at(2)))
    assert slow.begun.wait(PATIENCE_S)
    second.join(0.2)
    assert [taken.step for taken in slow.taken] == [1]
    slow.go.set()
    second.join(PATIENCE_S)
    writing.settle()
    assert writing.uri == "step 2"


def test_few_checkpoints_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "_room", threading.BoundedSemaphore(1))
    slow = SlowStore()
    runs = [Writing(Ranks(), slow.write) for _ in range(2)]
    runs[0].begin(at(1))
    other = beside(lambda: runs[1].begin(at(2)))
    other.join(0.2)
    assert len(slow.taken) == 1
    slow.go.set()
    other.join(PATIENCE_S)
    for run in runs:
        run.settle()
    assert len(slow.taken) == 2


def test_a_store_that_fails_is_met_once_by_whoever_waits():
    run = Writing(Ranks(), refuse)
    run.begin(at(1))
    with pytest.raises(StoreError, match="no room for step 1"):
        run.begin(at(2))
    run.settle()
    assert run.uri == ""


def test_what_nobody_needs_any_more_raises_nothing():
    run = Writing(Ranks(), refuse)
    run.begin(at(1))
    run.end()
    run.settle()


@pytest.mark.parametrize("save_steps", [1, 6, None])
def test_a_run_fails_with_its_store(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_steps: int | None
):
    monkeypatch.setattr(Recorder, "save", lambda self, checkpoint: refuse(checkpoint))
    with pytest.raises(StoreError, match=f"no room for step {save_steps or 6}"):
        start(spec_of(home, save_steps=save_steps), home, tmp_path)


def test_a_run_tells_of_each_checkpoint_once(home: Path, tmp_path: Path):
    hooks, outcome, _ = start(spec_of(home, save_steps=2), home, tmp_path)
    assert [event.step for event in hooks.events if event.kind == "checkpoint"] == [2, 4, 6]
    assert hooks.values("checkpoint", "uri")[-1] == outcome.checkpoint_uri


def test_the_best_of_a_runs_checkpoints_is_told_by_its_validation(home: Path, tmp_path: Path):
    """Step 3 is saved and not validated: its weights have no loss."""
    hooks, _, _ = start(spec_of(home, save_steps=3, eval_steps=2, max_steps=6), home, tmp_path)
    store = open_store(str(tmp_path))
    about = {key.split("/")[1]: None for key in store.keys("checkpoints")}
    assert sorted(about) == ["step-00000003", "step-00000006"]
    losses = {event.step: event.values["eval_loss"] for event in hooks.events if event.kind == "eval"}
    found = {name: read_manifest(store, f"checkpoints/{name}").about["eval_loss"] for name in about}
    assert found == {"step-00000003": None, "step-00000006": losses[6]}


def test_a_member_that_leaves_waits_for_its_writer(home: Path, monkeypatch: pytest.MonkeyPatch):
    (spec,) = member_specs(home, [{"lora_r": 4}])
    trainee, slow = place_tiny(spec), SlowStore()
    member: Member = admit(trainee, 0, spec, home)
    monkeypatch.setattr(member._hooks, "save", slow.write)
    turn(trainee, [member])
    member.save()
    leaving = beside(member.leave)
    leaving.join(0.2)
    assert leaving.is_alive()
    slow.go.set()
    leaving.join(PATIENCE_S)
    assert not leaving.is_alive()
