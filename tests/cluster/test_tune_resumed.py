"""A search that was interrupted, or whose driver was killed, goes on as if nothing had happened."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raylora.errors import CorruptObjectError, InputError
from raylora.spec.packing import pack_key
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.store.signature import KEY_NAME, SEAL
from raylora.sweep.steering.drive import TrialOutcome
from raylora.sweep.steering.trials import SweepTrials
from raylora.sweep.steering.tune_space import tune_scheduler, tune_searcher, tune_space
from raylora.sweep.steering.watch import TrialEvent
from tests.cluster.simulated_packs import Stage, made, ray_of_two_cores, stage
from tests.servers.ray import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(300)]

AT_ONCE = 4


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield from ray_of_two_cores()


class Played:
    """A sweep on simulated packs, process by process.

    Args:
        sweep: As asked.
        folder: For all that is kept.
    """

    def __init__(self, sweep: SweepSpec, folder: Path) -> None:
        self.sweep, self.folder = sweep, folder
        self.reported: dict[int, list[int]] = {}
        self.num_processes = 0
        self.outcomes: list[TrialOutcome] = []

    def go_on(self, num_reports: int | None = None, slots: int = AT_ONCE) -> None:
        """Drive until so many reports have been told, or to the end."""
        with stage(self.folder, SweepTrials(self.sweep, "sweep")) as here:
            here.open_pack(0, slots, key=pack_key(self.sweep.run))
            told = 0

            def listen(event: TrialEvent, here: Stage = here) -> None:
                nonlocal told
                if event.kind == "report":
                    self.reported.setdefault(event.number, []).append(event.result["steps"])
                    told += 1
                    here.stop.asked = told == num_reports or here.stop.asked

            search = here.search(
                self.sweep.num_configurations,
                AT_ONCE,
                space=tune_space(self.sweep.space),
                searcher=tune_searcher(self.sweep, AT_ONCE),
                scheduler=tune_scheduler(self.sweep),
            )
            self.outcomes = here.drive(search, listen=listen, resume=self.num_processes > 0)
            self.num_processes += 1

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        return [
            (outcome.status, outcome.result["steps"], outcome.result["eval_loss"], dict(outcome.sampled))
            for outcome in self.outcomes
        ]


@pytest.mark.parametrize(
    ("searcher", "scheduler", "num_trials"),
    [("random", "asha", 12), ("optuna", "asha", 8), ("random", "hyperband", 12), ("random", "median", 12)],
)
def test_an_interrupted_search_ends_as_an_undisturbed_one(
    tmp_path: Path, searcher: str, scheduler: str, num_trials: int
):
    sweep = made(searcher, scheduler, num_trials)
    undisturbed, interrupted = Played(sweep, tmp_path / "undisturbed"), Played(sweep, tmp_path / "interrupted")
    for played in (undisturbed, interrupted):
        played.folder.mkdir()
    undisturbed.go_on()
    for num_reports in (3, 14, 17):
        interrupted.go_on(num_reports)
        assert "cancelled" in {outcome.status for outcome in interrupted.outcomes}
    interrupted.go_on()
    assert interrupted.ends == undisturbed.ends
    assert interrupted.reported == undisturbed.reported  # each once, although some were not told before the stop


@pytest.mark.parametrize(("searcher", "scheduler", "num_trials"), [("bohb", "hyperband", 12), ("random", "pbt", 6)])
def test_an_interrupted_search_that_draws_by_chance_ends(
    tmp_path: Path, searcher: str, scheduler: str, num_trials: int
):
    played = Played(made(searcher, scheduler, num_trials), tmp_path)
    for num_reports in (3, 14, 17, None):
        played.go_on(num_reports)
    assert len(played.outcomes) == num_trials
    assert {outcome.status for outcome in played.outcomes} == {"succeeded"} | (
        {"stopped"} if scheduler == "hyperband" else set()
    )
    for outcome in played.outcomes:
        assert played.reported[outcome.number] == list(range(1, outcome.result["steps"] + 1))


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_search_goes_on_after_its_driver_was_killed(tmp_path: Path, scheduler: str):
    words = [sys.executable, "-m", "tests.cluster.simulated_packs", str(tmp_path), scheduler]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        ended = {int(killed.stdout.readline()) for _ in range(2)}
        killed.send_signal(signal.SIGKILL)
    with stage(tmp_path) as here:
        here.open_pack(0, 4)
        outcomes = here.drive(here.search(8, 4, scheduler=tune_scheduler(made("random", scheduler, 8))), resume=True)
        again = {admit.trial for admit in here.close()[0].admitted}
    assert [outcome.number for outcome in outcomes] == list(range(8))
    # The last of them may have ended after what Tune knew was kept.
    assert len(ended - again) >= 1
    assert {outcome.status for outcome in outcomes} <= {"succeeded", "stopped"}
    for number in range(8):
        steps = [result["steps"] for result in here.reports(number)]
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else number not in again


class Payload:
    """Makes a file when it is unpickled.

    Args:
        mark: The file.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def planted(mark: Path) -> bytes:
    """What Tune takes for the state of a search."""
    hidden = {"_type": "CLOUDPICKLE_FALLBACK", "value": pickle.dumps(Payload(mark)).hex()}
    return json.dumps({"runner_data": hidden}).encode()


def test_with_a_key_a_search_goes_on_and_nothing_of_others_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(KEY_NAME, "a-key-nobody-may-print")
    played, mark = Played(made("random", "hyperband", 12), tmp_path), tmp_path / "mark"
    for num_reports in (3, 14):
        played.go_on(num_reports)
    files = [file for file in (tmp_path / "tune").rglob("*") if file.is_file()]
    assert any(file.name == "slots.json" for file in files)
    for file in files:
        assert file.read_bytes().startswith(SEAL), file
    newest = max((tmp_path / "tune" / "search").glob("experiment_state-*.json"))
    kept = newest.read_bytes()
    callbacks = max((tmp_path / "tune" / "search").glob("*.pkl"))
    for file, data in ((newest, planted(mark)), (newest, kept[:-1] + b" "), (callbacks, pickle.dumps(Payload(mark)))):
        whole = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(CorruptObjectError, match="sign"):
            played.go_on()
        file.write_bytes(whole)
    assert not mark.exists()
    played.go_on()
    assert {outcome.status for outcome in played.outcomes} == {"succeeded", "stopped"}
    assert "is not checked" not in caplog.text


def test_without_a_key_what_is_planted_runs_after_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The payload of the test above is one; and what cannot be read is an error of ours."""
    played, mark = Played(made("random", "asha", 8), tmp_path), tmp_path / "mark"
    played.go_on(3)
    assert "is not checked" not in caplog.text, "nothing was read"
    max((tmp_path / "tune" / "search").glob("experiment_state-*.json")).write_bytes(planted(mark))
    with pytest.raises(InputError, match="cannot be read"):
        played.go_on()
    assert mark.exists()
    (warning,) = (record.getMessage() for record in caplog.records if "is not checked" in record.getMessage())
    assert f"{tmp_path / 'tune' / 'search'} is not checked" in warning and KEY_NAME in warning
