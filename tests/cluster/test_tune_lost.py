"""What happens to a search when slots fail, packs are lost, somebody stops it, or its processes are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray._private.state import actors as actor_table
from ray.util.placement_group import placement_group_table

from raylora.errors import RunFailedError, UnusableStoreError
from raylora.sweep.steering.tune_space import tune_scheduler
from raylora.sweep.steering.watch import TrialEvent
from tests.cluster.command import wait_until
from tests.cluster.simulated_packs import MAX_STEPS, SPACE, Stage, made, ray_of_two_cores, stage
from tests.unit.store.disks import fill, mounted

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield from ray_of_two_cores()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as stage_:
        yield stage_


def test_a_failing_slot_fails_alone(here: Stage):
    here.open_pack(0, 4)
    space = SPACE | {"lora_dropout": tune.grid_search([0.0, 0.1, 0.95])}
    outcomes = here.drive(here.search(2, 4, space=space))
    bad = [outcome for outcome in outcomes if outcome.sampled["lora_dropout"] > 0.5]
    assert len(outcomes) == 6 and len(bad) == 2
    assert [(outcome.status, outcome.error) for outcome in bad] == [
        ("failed", f"trial {outcome.number}: its loss was NaN at step 2") for outcome in bad
    ]
    assert all(outcome.status in ("succeeded", "stopped") for outcome in outcomes if outcome not in bad)


@pytest.mark.parametrize("save_steps", [0, 3])
def test_a_lost_pack_changes_nothing_but_the_time(tmp_path: Path, save_steps: int):
    ends = {}
    for lost in (False, True):
        with stage(tmp_path) as here:
            here.open_pack(0, 4, save_steps=save_steps)

            def listen(event: TrialEvent, here: Stage = here, lost: bool = lost) -> None:
                here.events.append(event)
                if lost and len([each for each in here.events if each.kind == "report"]) == 20:
                    ray.kill(here.actors[0])
                    ray.get(here.host.lose_pack.remote(0, "killed", True))
                    here.open_pack(0, 4)

            search = here.search(8, 4, name=f"search-{lost}")
            ends[lost] = here.drive(search, listen=listen)
            log = here.close()[0].log
            assert any(" at " in line for line in log if line.startswith("admit")) == (lost and save_steps > 0)
    assert [(end.status, end.result["steps"]) for end in ends[True]] == [
        (end.status, end.result["steps"]) for end in ends[False]
    ]


def test_trials_of_a_pack_that_is_lost_for_good_fail_with_the_reason(here: Stage):
    here.open_pack(0, 4)

    def listen(event: TrialEvent) -> None:
        if event.kind == "report" and not here.events:
            here.events.append(event)
            ray.get(here.host.lose_pack.remote(0, "rank 1: its process died", False))

    outcomes = here.drive(here.search(6, 4), listen=listen)
    assert {outcome.error for outcome in outcomes if outcome.status == "failed"} == {
        f"trial {outcome.number}: rank 1: its process died" for outcome in outcomes if outcome.status == "failed"
    }
    assert sum(outcome.status == "failed" for outcome in outcomes) >= 3


def test_a_population_goes_on_with_the_packs_that_are_left(here: Stage):
    """Whose nodes do not come back, the fleet gives up; all others waited for its trials without end."""
    for number in range(2):
        here.open_pack(number, 2)

    def listen(event: TrialEvent) -> None:
        here.events.append(event)
        if [each.kind for each in here.events].count("report") == 6:
            ray.kill(here.actors[0])
            ray.get([here.host.miss_pack.remote(0), here.host.lose_pack.remote(0, None, False)])

    # None is being saved then: that would be waited for, for minutes.
    scheduler = tune_scheduler(made("random", "pbt", 4).model_copy(update={"perturbation_interval": 8}))
    outcomes = here.drive(here.search(4, 4, scheduler=scheduler), listen=listen)
    assert [(outcome.status, outcome.result["steps"]) for outcome in outcomes] == [("succeeded", MAX_STEPS)] * 4
    ray.get(here.host.close.remote())
    pack = ray.get(here.runs[1], timeout=60)
    assert {admit.trial for admit in pack.admitted} == set(range(4))
    assert pack.most_slots == 2


def test_a_wish_to_stop_saves_and_the_search_goes_on(tmp_path: Path):
    with stage(tmp_path) as here:
        here.open_pack(0, 4)
        undisturbed = here.drive(here.search(8, 4, name="undisturbed"))
    with stage(tmp_path) as here:
        here.open_pack(0, 4)

        def listen(event: TrialEvent) -> None:
            here.events.append(event)
            here.stop.asked = len(here.events) > 60

        interrupted = here.drive(here.search(8, 4), listen=listen)
    assert {"cancelled"} < {outcome.status for outcome in interrupted}
    with stage(tmp_path) as here:
        here.open_pack(0, 4)
        resumed = here.drive(here.search(8, 4), resume=True)
        admitted = here.close()[0].admitted
    assert [outcome.number for outcome in resumed] == list(range(8))
    for before, after, without in zip(interrupted, resumed, undisturbed, strict=True):
        assert after.sampled == without.sampled
        if before.status != "cancelled":
            assert (after.status, after.result) == (before.status, before.result)
            assert before.number not in {admit.trial for admit in admitted}
    assert any(admit.start_from for admit in admitted)
    assert {outcome.status for outcome in resumed} == {"succeeded", "stopped"}


def test_a_full_disk_fails_no_trial_and_the_search_goes_on(tmp_path: Path):
    """The slots' own saves have another disk: what Tune itself keeps of trials is refused."""
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        asked: dict[str, Any] = {"folder": str(disk), "save_reports": 1}
        with stage(tmp_path) as here:
            here.open_pack(0, 4)
            undisturbed = here.drive(here.search(8, 4, name="undisturbed", **asked))
        with stage(tmp_path) as here:
            here.open_pack(0, 4)

            def listen(event: TrialEvent) -> None:
                here.events.append(event)
                if len(here.events) == 30:
                    fill(disk)

            with pytest.raises(UnusableStoreError, match=r"^what Ray Tune keeps .*No space .*raylora resume"):
                here.drive(here.search(8, 4, **asked), listen=listen)
        assert {event.error for event in here.events} == {None}
        (disk / "rest").unlink()
        with stage(tmp_path) as here:
            here.open_pack(0, 4)
            resumed = here.drive(here.search(8, 4, **asked), resume=True)
    assert [(end.status, dict(end.sampled), end.result["steps"]) for end in resumed] == [
        (end.status, dict(end.sampled), end.result["steps"]) for end in undisturbed
    ]


def wait_for_none_but(*actors: str) -> None:
    """Until these actors are all that lives on the cluster, by their classes, and nothing is reserved for a group."""

    def is_so() -> bool:
        alive = [actor["ActorClassName"] for actor in actor_table().values() if actor["State"] != "DEAD"]
        groups = [group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
        return (sorted(alive), groups) == (sorted(actors), [])

    wait_until(is_so, 60)


def test_nothing_is_left_after_twenty_kills(tmp_path: Path):
    wait_for_none_but()
    for kill in range(20):
        with stage(tmp_path) as here:
            here.open_pack(0, 4)

            def listen(event: TrialEvent, here: Stage = here, kill: int = kill) -> None:
                here.events.append(event)
                if len(here.events) == 8 + kill:
                    if kill % 2:
                        ray.kill(here.host)
                    else:
                        here.stop.asked = True

            search = here.search(8, 4, name=f"search-{kill}")
            if kill % 2:
                with pytest.raises(RunFailedError):
                    here.drive(search, listen=listen)
            else:
                here.drive(search, listen=listen)
            # Looked at before the stage ends what it has opened itself: that is the search's, and must be gone.
            wait_for_none_but("PackActor", *(() if kill % 2 else ("Host",)))
    wait_for_none_but()
