"""A run that a pack cannot train or keep fails alone, with its reason, and its slot is there for the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from raylora.errors import UnusableStoreError
from raylora.runtime.cluster.desk_messages import BEFORE_ANY_STEP, Admit, Go, Save
from raylora.runtime.pack.pack import Pack
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_checkpoint
from raylora.store.kept import complete_steps
from raylora.train.events import Event
from tests.unit.runtime.opened_pack import Post, open_pack
from tests.unit.store.disks import fill, mounted
from tests.unit.train.tiny_run import save_materials, tiny_spec


def turn_without_a_place_for_the_second(pack: Pack, specs: Sequence[RunSpec], folder: Path) -> Path:
    """All runs take a turn; returns the file that stands where the second of them would be stored."""
    in_the_way = folder / "store" / "runs" / "run1"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    for number, spec in enumerate(specs):
        pack._obey(Admit(f"lease{number}", number, spec, f"run{number}", None))
        pack._obey(Go(f"lease{number}"))
    pack._turn()
    return in_the_way


def test_a_trial_whose_bins_the_base_would_mix_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    config = home / "base" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mistral"').replace("{", '{"sliding_window": 64,', 1))
    plain = tiny_spec(home / "base", home / "rows.jsonl", max_steps=2)
    post = Post()
    pack = open_pack(plain, post, tmp_path)
    pack._obey(Admit("binned", 0, plain.model_copy(update={"sample_packing": True}), "run0", None))
    pack._obey(Admit("plain", 1, plain, "run1", None))
    pack._obey(Go("plain"))
    for _ in range(2):
        pack._turn()
    told = [(report.lease, report.kind) for report in pack._reports]
    assert told == [("binned", "failed"), ("plain", "metrics"), ("plain", "finished")]
    assert pack._reports[0].values["error"].startswith("sample_packing: MistralForCausalLM has sliding_window: 64")
    assert {event.run_id for event in post.events} == {"run1"}


def test_a_trial_whose_adapter_the_store_does_not_take_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    specs = [tiny_spec(home / "base", home / "rows.jsonl", max_steps=1, seed=seed) for seed in range(3)]
    pack = open_pack(specs[0], Post(), tmp_path, num_slots=3)
    in_the_way = turn_without_a_place_for_the_second(pack, specs, tmp_path)
    first, failed, last = pack._reports
    assert (first.kind, failed.kind, last.kind) == ("finished", "failed", "finished")
    assert str(in_the_way) in str(failed.values["error"])
    for number, report in ((0, first), (2, last)):
        alone = open_pack(specs[number], Post(), tmp_path / f"alone{number}")
        alone._obey(Admit("lease", 0, specs[number], "run", None))
        alone._obey(Go("lease"))
        alone._turn()
        (wanted,) = alone._reports
        files = [Path(str(each.values["adapter_uri"])) / "adapter_model.safetensors" for each in (report, wanted)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for report in pack._reports:
        pack._note(report)
    assert not pack._trainee.steppers


def test_a_trial_whose_checkpoint_the_store_does_not_take_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is written beside training: the trial hears of it at one of the next turns."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    specs = [tiny_spec(home / "base", home / "rows.jsonl", max_steps=9, save_steps=1, seed=seed) for seed in range(2)]
    pack = open_pack(specs[0], Post(), tmp_path, num_slots=2)
    in_the_way = turn_without_a_place_for_the_second(pack, specs, tmp_path)
    told = [pack._written.get(timeout=60) for _ in specs]
    by_lease = {report.lease: report for report in told}
    assert {name: (report.kind, report.step) for name, report in by_lease.items()} == {
        "lease0": ("kept", 1),
        "lease1": ("failed", 1),
    }
    assert str(in_the_way) in str(by_lease["lease1"].values["error"])
    for report in told:
        pack._note(report)
    assert list(pack._leases) == ["lease0"]
    assert len(pack._trainee.steppers) == 1
    pack._turn()
    assert load_checkpoint(str(by_lease["lease0"].values["uri"])).step == 1


@pytest.mark.parametrize("max_steps", [1, 9], ids=["adapters", "checkpoints"])
def test_a_disk_that_is_full_fails_no_trial_but_ends_the_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_steps: int
):
    """All would fail alike, those that come later as well; a sweep that is resumed goes on with each."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=max_steps)
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        pack = open_pack(spec, Post(), disk)
        pack._obey(Admit("lease", 0, spec, "run", None))
        pack._obey(Go("lease"))
        fill(disk)
        with pytest.raises(UnusableStoreError, match="the disk is full"):
            pack._turn()
            pack._obey(Save("lease"))
            pack._exchange()
        assert {report.kind for report in pack._reports} <= {"metrics"}
        assert list(pack._leases) == ["lease"]


def test_a_save_that_is_awaited_is_answered_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=9)
    pack = open_pack(spec, Post(), tmp_path)
    pack._obey(Admit("lease", 0, spec, "run", None))
    pack._obey(Go("lease"))
    pack._turn()
    for is_awaited in (False, True, True):
        pack._obey(Save("lease", is_awaited))
    answers = [report for report in pack._reports if report.kind == "saved"]
    assert [report.step for report in answers] == [1, 1]
    assert load_checkpoint(str(answers[0].values["uri"])).step == 1


def test_another_trials_checkpoint_is_taken_where_only_knobs_that_may_turn_half_way_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=3)
    pack = open_pack(spec, Post(), tmp_path, num_slots=3)
    pack._obey(Admit("donor", 0, spec, "run0", None))
    pack._obey(Go("donor"))
    pack._turn()
    pack._obey(Save("donor"))
    (saved,) = (report for report in pack._reports if report.kind == "saved")
    turned = {"learning_rate": 1e-4, "lora_alpha": 2.0, "lora_dropout": 0.3, "weight_decay": 0.1}
    for number, changes in enumerate((turned, {"use_rslora": True}), start=1):
        changed = spec.model_copy(update=changes)
        pack._obey(Admit(f"lease{number}", number, changed, f"run{number}", str(saved.values["uri"])))
    clone = pack._leases["lease1"].member
    assert clone is not None
    assert clone.progress.step == 1
    (failed,) = (report for report in pack._reports if report.kind == "failed")
    assert failed.lease == "lease2"
    assert "its configuration digest is" in str(failed.values["error"])


@pytest.mark.parametrize(("is_shared", "begins_at"), [(True, 1), (False, 0)])
def test_a_clone_goes_on_where_its_donor_was_when_it_was_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool, begins_at: int
):
    """The donor had a slot before it, trained on and saved: its next save was gone on from, steps that nobody gave."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=9, storage={"keep_checkpoints": 1})
    pack = open_pack(spec, Post(), tmp_path, num_slots=2)
    pack._obey(Admit("donor", 0, spec, "run0", None))
    for is_awaited in (True, False, False, True):
        pack._obey(Go("donor"))
        pack._turn()
        pack._obey(Save("donor", is_awaited, is_shared and is_awaited))
    uri = next(str(report.values["uri"]) for report in pack._reports if report.kind == "saved")
    pack._obey(Admit("clone", 1, spec, "run1", uri))
    clone = pack._leases["clone"].member
    assert clone is not None and clone.progress.step == begins_at
    donor = open_store(str(tmp_path / "store" / "runs" / "run0"))
    assert complete_steps(donor) == ([1, 4] if is_shared else [4])


@pytest.mark.parametrize(("up_to_step", "goes_on_at"), [(BEFORE_ANY_STEP, 0), (1, 0), (2, 2), (9, 3)])
def test_a_run_goes_on_from_a_save_that_nobody_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up_to_step: int, goes_on_at: int
):
    """Its driver was killed. From a save beyond the last report that was told, it would never tell those between."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=9)
    pack = open_pack(spec, Post(), tmp_path)
    pack._obey(Admit("lease", 0, spec, "run", None))
    pack._obey(Go("lease"))
    for step in (1, 2, 3):
        pack._turn()
        if step > 1:
            pack._obey(Save("lease"))
    again = open_pack(spec, Post(), tmp_path)
    again._obey(Admit("again", 0, spec, "run", None, up_to_step=up_to_step))
    member = again._leases["again"].member
    assert member is not None and member.progress.step == goes_on_at
    pack._turn()
    again._obey(Go("again"))
    while member.progress.step < 4:
        again._turn()
    uninterrupted = pack._leases["lease"].member
    assert uninterrupted is not None and member.progress.train_loss == uninterrupted.progress.train_loss


def numbers(post: Post, run_id: str) -> list[Event]:
    return [event for event in post.events if event.kind in ("step", "eval") and event.run_id == run_id]


def test_what_was_told_before_a_save_is_told_again_by_the_same_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever heard it may be gone with the workers, and the steps are not done again."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=9, val_set_size=4, eval_steps=2)
    first, second, third = Post(), Post(), Post()
    pack = open_pack(spec, first, tmp_path)
    pack._obey(Admit("lease", 0, spec, "run", None))
    pack._obey(Go("lease"))
    for _ in range(3):
        pack._turn()
    pack._obey(Save("lease"))
    again = open_pack(spec, second, tmp_path, num_slots=2)
    again._obey(Admit("again", 0, spec, "run", None, up_to_step=9))
    assert numbers(second, "run") == numbers(first, "run")
    assert [event.step for event in numbers(second, "run")] == [1, 2, 2, 3]
    (saved,) = (report for report in pack._reports if report.kind == "saved")
    again._obey(Admit("clone", 1, spec, "other", str(saved.values["uri"])))
    assert numbers(second, "other") == []

    again._obey(Go("again"))
    again._turn()
    again._obey(Save("again"))  # and so on, however often it is lost
    open_pack(spec, third, tmp_path)._obey(Admit("once more", 0, spec, "run", None, up_to_step=9))
    assert numbers(third, "run") == numbers(second, "run")


def test_a_run_that_begins_anew_has_no_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What an earlier process saved beyond its beginning would be gone on from where a new save is damaged."""
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    home = save_materials(tmp_path, 20)
    spec = tiny_spec(home / "base", home / "rows.jsonl", max_steps=3)
    earlier = open_pack(spec, Post(), tmp_path)
    earlier._obey(Admit("lease", 0, spec, "run0", None))
    earlier._obey(Go("lease"))
    earlier._turn()
    earlier._obey(Save("lease"))
    store = open_store(str(tmp_path / "store" / "runs" / "run0"))
    assert complete_steps(store) == [1]
    earlier._release("lease")
    earlier._obey(Admit("again", 0, spec, "run0", None))
    assert complete_steps(store) == []
