"""Who is absent, of packs that ask for the same and cannot be told apart by the cluster."""

from __future__ import annotations

import pytest

from raylora.runtime.cluster.gangs import Gang
from raylora.sweep.absences import COMING_S, Absences
from tests.unit.sweep.staged_fleet import OUR_JOB

ALIKE = Gang({"CPU": 1.0}, 1, 1)


def num_placed(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    """So many groups of workers have their room."""
    placed = {f"a{number}{OUR_JOB}": {"state": "CREATED", "bundles": {0: {"CPU": 1.0}}} for number in range(num)}
    monkeypatch.setattr("raylora.runtime.cluster.gangs.placement_group_table", lambda: placed)


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def get_job_id(self) -> str:
            return OUR_JOB

    monkeypatch.setattr("raylora.runtime.cluster.gangs.ray.get_runtime_context", Context)


@pytest.mark.parametrize("lost", [0, 1])
def test_workers_that_load_again_are_not_taken_for_those_whose_nodes_are_gone(
    monkeypatch: pytest.MonkeyPatch, lost: int
):
    """Else the wait for the nodes would begin anew, and the pack that has its room would be given up for the other."""
    absences, gangs, restarted = Absences(), {0: ALIKE, 1: ALIKE}, 1 - lost
    num_placed(monkeypatch, 1)
    absences.look(gangs, {lost}, now=0.0)
    absences.look(gangs, {lost, restarted}, now=COMING_S - 10.0)
    assert absences.gone(now=COMING_S) == [lost]


def test_of_two_that_lack_their_room_the_one_that_waits_longer_keeps_its_time(monkeypatch: pytest.MonkeyPatch):
    absences, gangs = Absences(), {0: ALIKE, 1: ALIKE}
    num_placed(monkeypatch, 1)
    absences.look(gangs, {0}, now=0.0)
    num_placed(monkeypatch, 0)
    absences.look(gangs, {0, 1}, now=100.0)
    num_placed(monkeypatch, 1)
    absences.look(gangs, {0, 1}, now=110.0)
    assert absences.gone(now=COMING_S) == [0]
