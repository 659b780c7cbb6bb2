"""A fault of adapters that come from elsewhere: a bad one is offered to a command while somebody trains."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from raylora.model.export import FOLDER
from raylora.store.blob import open_store
from raylora.store.manifest import fetch
from raylora.store.runs import list_runs, run_store
from tests.cluster.bad_adapters import BY_ITSELF, DAMAGE, NEEDS_ITS_BASE, REFUSED, WITH_ITS_BASE, copy_twice, spoil
from tests.cluster.command import Command
from tests.servers.ray import RayHead
from tests.soak.scene import Scene, Strike, Struck

WAYS = sorted(DAMAGE.keys() - {NEEDS_ITS_BASE})
COMMANDS = WITH_ITS_BASE | BY_ITSELF


def of_adapters(head: RayHead, command: Command, store: str) -> Mapping[str, Strike]:
    """Faults by name.

    Args:
        head: The cluster.
        command: On the cluster; its folder has the base.
        store: URI of one with a run that was left alone, whose adapter is damaged.
    """
    return {"a bad adapter offered to a command": partial(_offer, head, command, store)}


def _offer(head: RayHead, command: Command, store: str, scene: Scene) -> Struck | None:
    """It has struck when it was refused.

    Raises:
        RuntimeError: It was taken, or half a result was left.
    """
    if not head.workers():
        return None
    way, words = scene.chance.choice(WAYS), COMMANDS[scene.chance.choice(sorted(COMMANDS))]
    (record,) = list_runs(open_store(store))
    with tempfile.TemporaryDirectory(prefix="offered-", dir=command.folder) as own:
        folder = Path(own)
        (folder / "base").symlink_to(command.folder / "base")
        fetch(run_store(open_store(store), record.run_id), FOLDER, folder / "trained")
        copy_twice(folder / "trained", folder)
        spoil(folder / "bad", way)
        ended = Command(folder, command.home, command.env).run(*words, "--json")
        if ended.code != 2 or REFUSED not in ended.error or (folder / "made").exists():
            raise RuntimeError(f"an adapter that is {way} was not refused by {words}: {ended.out}{ended.err[-3000:]}")
    return lambda: 1
