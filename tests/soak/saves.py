"""Faults of what was saved: the newest checkpoint is damaged, and whoever would read it next has to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from raylora.errors import CorruptObjectError, MissingObjectError
from raylora.model.export import FOLDER as ADAPTER
from raylora.store.checkpoint import load_checkpoint
from raylora.store.contract import Store
from raylora.store.kept import complete_steps, prefix_of
from raylora.store.manifest import MANIFEST
from raylora.store.runs import FOLDER, run_store
from tests.cluster.damage import DAMAGES
from tests.servers.ray import RayHead
from tests.soak.processes import kill_a_worker, kill_the_driver
from tests.soak.scene import Scene, Strike, Struck


def of_saves(head: RayHead) -> Mapping[str, Strike]:
    """Faults by name; a worker or the driver is killed with each.

    Args:
        head: The cluster.
    """
    return {f"the newest checkpoint damaged: {way}": partial(_damage, head, DAMAGES[way]) for way in DAMAGES}


def _damage(head: RayHead, how: Callable[[Store, int], None], scene: Scene) -> Struck | None:
    """Where there is a whole one before it: a run whose checkpoints are all corrupt ends, as it should.

    It has struck when somebody says so.
    """
    runs = sorted({key.split("/")[1] for key in scene.store.keys(FOLDER)})
    before = len(scene.said)
    for run in scene.chance.sample(runs, len(runs)):
        own = run_store(scene.store, run)
        steps = complete_steps(own)
        if len(steps) < 2 or own.exists(f"{ADAPTER}/{MANIFEST}"):
            continue
        try:
            load_checkpoint(own.uri_of(prefix_of(steps[-2])))
            how(own, steps[-1])
        except (MissingObjectError, CorruptObjectError):  # deleted meanwhile, or damaged before
            continue
        if scene.chance.random() < 0.5:
            kill_a_worker(head, scene.chance)
        else:
            kill_the_driver(scene)
        told = (f"CHECKPOINT AT STEP {steps[-1]} IS", f"{prefix_of(steps[-1])} is gone or corrupt")
        return lambda: int(any(each in scene.said[before:] for each in told))
    return None
