"""A checkpoint that somebody remembers by its URI, when it is gone or damaged: which other takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import InputError
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import load_checkpoint_or_next, save_checkpoint
from tests.unit.store.made_checkpoints import at_step, damage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def test_a_checkpoint_that_made_room_is_replaced_by_the_oldest_there_is(store: Store, caplog: pytest.LogCaptureFixture):
    uris = [save_checkpoint(store, at_step(step), keep=2) for step in (5, 10, 15)]
    assert load_checkpoint_or_next(uris[1]).step == 10
    assert caplog.text == ""
    store.write("checkpoints/step-00000002/state.safetensors", b"half")
    assert load_checkpoint_or_next(uris[0]).step == 10
    assert f"{uris[0]} is gone or corrupt; its run goes on from step 10" in caplog.text


def test_a_checkpoint_that_is_gone_with_all_others_is_none(store: Store):
    uri = save_checkpoint(store, at_step(5), keep=1)
    store.delete("checkpoints")
    assert load_checkpoint_or_next(uri) is None


@pytest.mark.parametrize("harm", ["truncated", "a bit flipped", "a file missing", "the manifest damaged"])
def test_a_named_checkpoint_that_is_corrupt_gives_way_to_the_newest_whole_one_before(
    store: Store, caplog: pytest.LogCaptureFixture, harm: str
):
    uris = [save_checkpoint(store, at_step(step), keep=4) for step in (5, 10, 15, 20)]
    key = f"checkpoints/step-00000015/{'manifest.json' if 'manifest' in harm else 'state.safetensors'}"
    data = store.read(key)
    match harm:
        case "truncated":
            store.write(key, data[:-1])
        case "a bit flipped":
            store.write(key, data[:-1] + bytes([data[-1] ^ 1]))
        case "a file missing":
            store.delete(key)
        case _:
            store.write(key, b"{")
    assert load_checkpoint_or_next(uris[2]).step == 10
    assert "STEP 15 IS CORRUPT" in caplog.text
    assert f"{uris[2]} is gone or corrupt; its run goes on from step 10" in caplog.text


def test_where_all_before_a_corrupt_checkpoint_are_too_the_next_takes_its_place_and_then_none(
    store: Store, caplog: pytest.LogCaptureFixture
):
    uris = [save_checkpoint(store, at_step(step), keep=3) for step in (5, 10, 15)]
    damage(store, 5)
    damage(store, 10)
    assert load_checkpoint_or_next(uris[1]).step == 15
    damage(store, 15)
    assert load_checkpoint_or_next(uris[1]) is None
    assert f"{uris[1]} is gone or corrupt, and so are all others; its run begins anew" in caplog.text


def test_where_the_next_of_one_that_is_gone_is_corrupt_the_last_before_takes_its_place(store: Store):
    uris = [save_checkpoint(store, at_step(step), keep=3) for step in (5, 10, 15)]
    store.delete("checkpoints/step-00000010")
    damage(store, 15)
    assert load_checkpoint_or_next(uris[1]).step == 5


def test_what_names_no_checkpoint_is_refused(store: Store):
    with pytest.raises(InputError, match="is no checkpoint of raylora"):
        load_checkpoint_or_next(store.uri)


def test_a_checkpoint_in_a_store_that_is_open_takes_no_other_connection(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = save_checkpoint(store, at_step(5), keep=1)

    def refuse(uri: str) -> Store:
        raise AssertionError(f"{uri} was opened")

    monkeypatch.setattr("raylora.store.checkpoint.open_store", refuse)
    assert load_checkpoint_or_next(uri, open_store(str(tmp_path))).step == 5
    with pytest.raises(AssertionError, match="was opened"):  # of a store that has moved, or that of others
        load_checkpoint_or_next(uri, open_store(str(tmp_path / "ru")))
