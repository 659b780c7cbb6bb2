"""Which record, store and search a sweep's driver works on, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raylora.errors import InputError, InterruptedRunError, RunFailedError
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.blob import open_store
from raylora.store.contract import Store
from raylora.store.fence import FOLDER
from raylora.store.home import default_store_uri
from raylora.store.lease import Lease, is_deserted
from raylora.store.sweeps import SweepRecord, read_sweep, sweep_store, write_sweep
from raylora.sweep.launch import resume_sweep
from raylora.sweep.standing import Standing
from raylora.sweep.steering.drive import TrialOutcome
from raylora.sweep.steering.watch import TrialEvent
from raylora.train.events import Event
from tests.unit.store.other_driver import OTHER, take_over
from tests.unit.sweep.planted_sweep import new_record, sweep_spec
from tests.unit.sweep.staged_launch import Stage

pytestmark = pytest.mark.slow

SAMPLED = {"lora_r": 4, "learning_rate": 1e-3}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture
def left(client: MlflowClient, store: Store) -> SweepRecord:
    """A sweep without `storage.uri` that was cut off, and what Tune knew of it."""
    record = new_record(sweep_spec("driver")).model_copy(update={"status": "interrupted", "folder": "/of/another"})
    sweep_store(store, record.sweep_id).write("tune/experiment_state-0.json", b"{}")
    return write_sweep(store, record)


def through(record: SweepRecord) -> TrialOutcome:
    """The end of its first trial."""
    told = {"run_id": f"{record.sweep_id}-000", "step": 6, "eval_loss": 1.0, "num_tokens": 192, "finished": True}
    return TrialOutcome(0, SAMPLED, "succeeded", {"repeats": [told], "finished": True}, None)


def test_a_sweep_goes_on_in_the_store_that_it_was_found_in(left: SweepRecord, store: Store, stage: Stage):
    stage.outcomes = [through(left)]
    assert left.spec["run"]["storage"]["uri"] is None
    assert store.uri != default_store_uri()
    result = resume_sweep(left.sweep_id, store.uri)
    ((search, goes_on),) = stage.searches
    assert (search.folder, goes_on) == (sweep_store(store, left.sweep_id).uri, True)
    record = read_sweep(store, left.sweep_id)
    assert (record.status, record.result, record.folder) == ("finished", result, str(Path.cwd()))
    assert SweepSpec.model_validate(record.spec).digest == SweepSpec.model_validate(left.spec).digest
    assert open_store(default_store_uri()).keys() == []
    assert not Path(default_store_uri()).exists()


@pytest.mark.parametrize(
    ("knob", "lengths"), [({"choice": [64, 128]}, {64, 128}), ({"int": [64, 40_000]}, set())], ids=["likely", "unknown"]
)
def test_the_pack_that_starts_ahead_is_one_that_a_trial_will_want(
    left: SweepRecord, store: Store, stage: Stage, knob: dict[str, object], lengths: set[int]
):
    """The run's own length is none of them: a pack for it would load the base for nobody."""
    spec = left.spec | {"space": left.spec["space"] | {"sequence_len": knob}, "num_trials": 8}
    write_sweep(store, left.model_copy(update={"spec": spec}))
    stage.outcomes = [replace(through(left), sampled=SAMPLED | {"sequence_len": 64})]
    resume_sweep(left.sweep_id, store.uri)
    assert len(stage.packs) == len(lengths) // 2
    assert {pack.sequence_len for pack in stage.packs.values()} <= lengths


def test_what_another_driver_finished_a_moment_ago_is_the_result(
    left: SweepRecord, store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    take, result = Lease.take, {"sweep_id": left.sweep_id, "trials": []}

    def take_what_was_just_given_back(lease: Lease) -> None:
        write_sweep(store, left.model_copy(update={"status": "finished", "result": result}))
        take(lease)

    monkeypatch.setattr(Lease, "take", take_what_was_just_given_back)
    assert resume_sweep(left.sweep_id, store.uri) == result
    assert (stage.num_clusters, stage.searches) == (0, [])
    assert read_sweep(store, left.sweep_id).result == result
    assert is_deserted(sweep_store(store, left.sweep_id))


@pytest.mark.parametrize("status", ["running", "finished"], ids=["trains", "sends its report"])
def test_a_second_driver_is_refused_before_anything_starts(left: SweepRecord, store: Store, stage: Stage, status: str):
    write_sweep(store, left.model_copy(update={"status": status}))
    with closing(Lease(sweep_store(store, left.sweep_id), left.sweep_id)) as first:
        first.take()
        with pytest.raises(InputError, match="at work on it"):
            resume_sweep(left.sweep_id, store.uri)
    assert (stage.num_clusters, stage.searches) == (0, [])


@pytest.mark.parametrize("when", ["while it drives", "while its workers end"])
def test_a_driver_that_was_taken_over_ends_and_writes_no_more(
    left: SweepRecord, store: Store, stage: Stage, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, when: str
):
    """As after a sleep of the machine, when another has long gone on with the sweep."""
    monkeypatch.setattr(Lease.__init__, "__defaults__", (0.05, 1.0))
    own = sweep_store(store, left.sweep_id)
    finished: list[SweepRecord] = []

    def finish_elsewhere(is_known: Callable[[], bool]) -> None:
        record = read_sweep(store, left.sweep_id).model_copy(update={"status": "finished", "result": {"by": "other"}})
        finished[:] = [write_sweep(store, record)]
        take_over(own, is_known)

    def drive(tend: Callable[[], None]) -> None:
        finish_elsewhere(lambda: tend() is not None)  # until it raises

    if when == "while it drives":
        stage.while_driving = drive
    else:
        stage.outcomes = [through(left)]
        stage.while_ending = lambda: finish_elsewhere(lambda: stage.leases[-1].lost)
    with pytest.raises(RunFailedError, match="taken it over"):
        resume_sweep(left.sweep_id, store.uri)
    assert [read_sweep(store, left.sweep_id)] == finished
    assert own.read(own.keys(FOLDER)[-1]) == OTHER
    assert client.get_run(str(finished[0].mlflow_run_id)).info.status == "RUNNING"


def test_a_wish_to_stop_after_the_last_trial_does_not_interrupt_the_sweep(
    left: SweepRecord, store: Store, stage: Stage
):
    def ask_to_stop() -> None:
        stage.stop.asked = True

    stage.outcomes, stage.while_ending = [through(left)], ask_to_stop
    result = resume_sweep(left.sweep_id, store.uri)
    assert [(trial["trial_id"], trial["status"]) for trial in result["trials"]] == [("t000", "succeeded")]
    assert read_sweep(store, left.sweep_id).status == "finished"


def test_a_wish_to_stop_before_the_last_trial_interrupts_it(left: SweepRecord, store: Store, stage: Stage):
    def ask_to_stop(tend: Callable[[], None]) -> None:
        stage.stop.asked = True

    told: list[Standing] = []
    stage.outcomes, stage.while_driving = [through(left)], ask_to_stop
    with pytest.raises(InterruptedRunError, match=f"raylora resume {left.sweep_id} --store {store.uri}"):
        resume_sweep(left.sweep_id, store.uri, told.append)
    assert read_sweep(store, left.sweep_id).status == "interrupted"
    assert told[-1].record.status == told[-1].doing == "interrupted", "whoever shows the trials shows how they ended"


def test_before_tune_keeps_the_end_of_a_trial_all_that_its_pack_told_is_written_down(
    left: SweepRecord, store: Store, stage: Stage
):
    """Tune hears of a failure at once, the driver of steps twice a second: killed in between, it lost them."""

    def fail(tend: Callable[[], None]) -> None:
        stage.note(TrialEvent("start", 0, SAMPLED))
        stage.note(TrialEvent("end", 0, SAMPLED, error="its loss is not finite"))
        stage.told = [Event("step", 1, {"train_loss": 2.0, "num_tokens": 32.0}, f"{left.sweep_id}-000")]
        stage.write()
        (trial,) = read_sweep(store, left.sweep_id).trials
        assert (trial.status, trial.steps, trial.tokens) == ("failed", 1, 32)

    stage.outcomes, stage.while_driving = [through(left)], fail
    resume_sweep(left.sweep_id, store.uri)
