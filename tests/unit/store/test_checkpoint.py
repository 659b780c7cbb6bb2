from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raylora.errors import CorruptObjectError, StoreError
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.store.kept import best_checkpoint, fall_back, give_up_beyond
from raylora.store.local import FolderStore
from raylora.store.manifest import publish
from tests.unit.store.failing import FailingStore, PowerCut
from tests.unit.store.made_checkpoints import at_step, damage

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def steps(store: Store) -> list[int]:
    return sorted({int(key.split("/")[1].removeprefix("step-")) for key in store.keys("checkpoints")})


def test_a_run_without_checkpoints_has_none(store: Store):
    assert load_latest(store) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)], ids=str)
def test_tensors_come_back_bit_for_bit(store: Store, dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = (torch.rand(shape) * 5).to(dtype)
    save_checkpoint(store, Checkpoint(1, {"t": tensor}, {}), keep=1)
    loaded = load_latest(store)
    assert loaded is not None
    assert loaded.tensors["t"].dtype == dtype
    assert torch.equal(loaded.tensors["t"], tensor)


def test_views_parameters_and_transposed_tensors_can_be_saved(store: Store):
    flat = torch.arange(24.0)
    tensors = {
        "first": flat[:12],
        "second": flat[12:].view(3, 4).T,
        "whole": flat,
        "parameter": torch.nn.Parameter(flat[:2]),
    }
    save_checkpoint(store, Checkpoint(1, tensors, {}), keep=1)
    loaded = load_latest(store)
    assert loaded is not None
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())


def test_the_newest_is_loaded_and_the_oldest_go(store: Store):
    uris = [save_checkpoint(store, at_step(step), keep=2) for step in (5, 10, 100_000_000)]
    assert uris[0] == f"{store.uri}/checkpoints/step-00000005"
    assert steps(store) == [10, 100_000_000]
    loaded = load_latest(store)
    assert loaded is not None
    assert (loaded.step, dict(loaded.state)) == (100_000_000, dict(at_step(100_000_000).state))


def with_loss(step: int, eval_loss: float | None) -> Checkpoint:
    return replace(at_step(step), eval_loss=eval_loss)


def test_the_newest_up_to_a_step_is_loaded_where_it_is_whole(store: Store):
    for step in (1, 3, 5):
        save_checkpoint(store, at_step(step), keep=3)
    assert [getattr(load_latest(store, up_to), "step", None) for up_to in (0, 1, 4, 5, 9)] == [None, 1, 3, 5, 5]
    damage(store, 3)
    assert [getattr(load_latest(store, up_to), "step", None) for up_to in (4, 5)] == [1, 5]


def test_the_best_is_kept_beside_the_newest(store: Store):
    losses = {1: 3.0, 2: None, 3: 1.5, 4: 1.5, 5: 2.0, 6: None, 7: 2.5}
    for step, loss in losses.items():
        save_checkpoint(store, with_loss(step, loss), keep=2)
    assert steps(store) == [3, 6, 7]
    assert best_checkpoint(store) == f"{store.uri}/checkpoints/step-00000003"
    save_checkpoint(store, with_loss(8, 1.0), keep=2)
    assert steps(store) == [7, 8]
    assert best_checkpoint(store) == f"{store.uri}/checkpoints/step-00000008"


def test_where_nothing_was_validated_there_is_no_best(store: Store):
    assert best_checkpoint(store) is None
    for step in (1, 2, 3):
        save_checkpoint(store, at_step(step), keep=1)
    assert steps(store) == [3]
    assert best_checkpoint(store) is None


def test_one_whose_manifest_is_damaged_is_not_the_best(store: Store):
    for step, loss in ((1, 1.0), (2, 2.0)):
        save_checkpoint(store, with_loss(step, loss), keep=2)
    damage(store, 1, "manifest.json")
    assert best_checkpoint(store) == f"{store.uri}/checkpoints/step-00000002"


def test_an_interrupted_checkpoint_is_passed_over_and_later_deleted(store: Store):
    save_checkpoint(store, at_step(1), keep=2)
    store.write("checkpoints/step-00000002/state.safetensors", b"half")
    assert load_latest(store).step == 1
    save_checkpoint(store, at_step(3), keep=2)
    assert steps(store) == [1, 3]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_corrupt_checkpoint_is_passed_over_with_a_warning(store: Store, caplog: pytest.LogCaptureFixture, name: str):
    for step in (1, 2):
        save_checkpoint(store, at_step(step), keep=2)
    damage(store, 2, name)
    assert load_latest(store).step == 1
    assert "STEP 2 IS CORRUPT" in caplog.text


def test_nothing_starts_over_when_every_checkpoint_is_corrupt(store: Store):
    save_checkpoint(store, at_step(1), keep=1)
    damage(store, 1)
    with pytest.raises(CorruptObjectError, match=r"all 1 checkpoints are corrupt.*start the run over"):
        load_latest(store)


def test_a_writer_that_is_late_deletes_nothing_newer(store: Store):
    """A worker that was cut off, or slept, keeps what it had while those in its place are further."""
    for step in (10, 15):
        save_checkpoint(store, at_step(step), keep=2)
    save_checkpoint(store, at_step(5), keep=1)
    assert steps(store) == [5, 10, 15]
    assert load_latest(store).step == 15
    save_checkpoint(store, at_step(20), keep=2)
    assert steps(store) == [15, 20]


def test_a_future_that_was_given_up_is_deleted(store: Store):
    for step in (1, 5, 9):
        save_checkpoint(store, at_step(step), keep=3)
    damage(store, 9)
    store.write("checkpoints/step-00000007/state.safetensors", b"half")
    give_up_beyond(store, 5)
    assert steps(store) == [1, 5]
    give_up_beyond(store, 0)
    assert steps(store) == []


@pytest.mark.parametrize(("step", "left"), [(3, [1, 3]), (4, [1, 3]), (2, [1]), (6, [1, 3, 5])])
def test_falling_back_leaves_what_is_up_to_a_step(store: Store, step: int, left: list[int]):
    for each in (1, 3, 5):
        save_checkpoint(store, at_step(each), keep=3)
    uri = fall_back(store, step)
    assert steps(store) == left
    loaded = load_latest(store)
    assert loaded is not None
    assert (loaded.uri, loaded.step) == (uri, left[-1])


def test_falling_back_leaves_what_is_in_doubt_where_there_is_nothing_else(store: Store):
    assert fall_back(store, 7) == ""
    save_checkpoint(store, at_step(3), keep=3)
    assert fall_back(store, 2) == ""
    assert steps(store) == [3]


@pytest.mark.parametrize("changes", range(12))
def test_wherever_saving_stops_a_whole_checkpoint_is_left(store: Store, changes: int):
    save_checkpoint(store, at_step(1), keep=1)
    cut = FailingStore(Path(store.uri), changes)
    try:
        save_checkpoint(cut, at_step(2), keep=1)
        finished = True
    except PowerCut:
        finished = False
    loaded = load_latest(store)
    assert loaded.step == (2 if finished else 1)
    assert torch.equal(loaded.tensors["w"], at_step(loaded.step).tensors["w"])
    save_checkpoint(store, at_step(3), keep=1)
    assert steps(store) == [3]


def test_a_checkpoint_that_is_saved_stays_saved_when_deleting_fails(store: Store, caplog: pytest.LogCaptureFixture):
    class Undeletable(FolderStore):
        def delete(self, prefix: str) -> None:
            if self.exists(prefix) and "step-00000001" in prefix:
                raise StoreError("not allowed")
            super().delete(prefix)

    for step in (1, 2):
        save_checkpoint(Undeletable(Path(store.uri)), at_step(step), keep=1)
    assert load_latest(store).step == 2
    assert "could not be deleted: not allowed" in caplog.text
    caplog.clear()
    give_up_beyond(Undeletable(Path(store.uri)), 0)
    assert "checkpoints beyond step 0 could not be deleted: not allowed" in caplog.text


def test_a_store_that_does_not_answer_is_no_reason_to_go_back(store: Store):
    class Silent(FolderStore):
        def read(self, key: str) -> bytes:
            if "step-00000002" in key:
                raise StoreError("does not answer")
            return super().read(key)

    for step in (1, 2):
        save_checkpoint(store, at_step(step), keep=2)
    with pytest.raises(StoreError, match="does not answer"):
        load_latest(Silent(Path(store.uri)))


def test_a_pickle_is_refused_and_not_run(store: Store, tmp_path: Path):
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    files = {"state.safetensors": pickle.dumps(Payload()), "state.json": b"{}"}
    publish(store, "checkpoints/step-00000001", files, {"step": 1})
    with pytest.raises(CorruptObjectError, match="not a checkpoint of raylora"):
        load_latest(store)
    assert not (tmp_path / "ran").exists()


def test_one_that_was_put_into_the_place_of_another_step_is_refused(store: Store):
    for step in (1, 2):
        save_checkpoint(store, at_step(step), keep=2)
    for key in store.keys("checkpoints/step-00000001"):
        store.write(key.replace("step-00000001", "step-00000002"), store.read(key))
    assert load_latest(store).step == 1


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {1: "a"}, {"a": float("nan")}])
def test_state_that_json_would_change_is_refused(store: Store, state: dict[object, object]):
    with pytest.raises(TypeError, match="come back from JSON"):
        save_checkpoint(store, Checkpoint(1, {}, state), keep=1)
    assert store.keys() == []


def test_state_is_read_as_json(store: Store):
    uri = save_checkpoint(store, at_step(1), keep=1)
    assert json.loads(Path(uri, "state.json").read_text()) == at_step(1).state
