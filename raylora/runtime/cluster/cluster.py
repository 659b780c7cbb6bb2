"""The Ray cluster of a run: one that is there, or a local one started for it."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Container, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError

from raylora.errors import InputError
from raylora.log import get_logger
from raylora.runtime.cluster.failures import gist
from raylora.runtime.cluster.growth import can_grow, room
from raylora.spec.run import RunSpec

log = get_logger(__name__)
KNOCK_TIMEOUT_S = 10.0
AUTO = "auto"
"""Ray's word for a cluster that this machine is a node of."""

AUTH_MODE, BY_TOKEN = "RAY_AUTH_MODE", "token"
"""Ray's variable, which Ray obeys without a word. Where it is unset, a Ray that is started here asks for a token."""


@contextmanager
def cluster(spec: RunSpec) -> Iterator[None]:
    """Connect to ``ray.address``, to ``RAY_ADDRESS``, or start Ray on this machine; disconnect afterwards.

    A connection that is already there is used and left open.

    Args:
        spec: The run.

    Raises:
        InputError: No cluster answers at the address, or it refuses this driver; or a Ray that is started here would
            let in whoever comes.
    """
    if ray.is_initialized():
        yield
        return
    address = address_of(spec)
    if address == "local":
        _check_token_is_asked_for()
    try:
        # Of a cluster that was killed Ray finds what it left, and would try that for a quarter of an hour.
        knock(str(canonicalize_bootstrap_address(address)) if address == AUTO else address)
        ray.init(
            address,
            log_to_driver=False,  # the workers' lines come through the mailbox, in order and once
            logging_level=logging.ERROR,
            include_dashboard=False if address == "local" else None,
        )
    except SystemExit as error:  # Ray's own answer to SIGTERM while it starts
        raise KeyboardInterrupt from error
    except OSError as error:  # Ray's ConnectionError among them
        raise InputError(
            f"ray.address: no Ray cluster answers at {address}; start one, set RAY_AUTH_MODE=token where it asks for a "
            "token, or leave the address out"
        ) from error
    except (RayError, RuntimeError, ValueError) as error:
        raise InputError(f"ray.address: {address}: {gist(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_token_is_asked_for() -> None:
    mode = os.environ.get(AUTH_MODE, BY_TOKEN)
    if mode.lower() != BY_TOKEN:
        raise InputError(
            f"{AUTH_MODE}: got {mode!r}; whoever may talk to a Ray without a token may run code as you: unset it for a "
            f"Ray that is started on this machine (allowed: {BY_TOKEN}), or start a cluster and set ray.address"
        )


def address_of(spec: RunSpec) -> str:
    """Where a run goes: the address of a cluster, or ``local`` for a Ray that is started for it.

    Under ``auto`` Ray itself takes ``RAY_ADDRESS`` first, which the pods of KubeRay have.

    Args:
        spec: The run.
    """
    asked, of_shell = spec.ray.address, os.environ.get("RAY_ADDRESS")
    first, second = (of_shell, asked) if asked == AUTO else (asked, of_shell)
    return first or second or "local"


def knock(address: str) -> bool:
    """Find out in seconds that nothing listens at a host and port; Ray itself tries for a quarter of an hour.

    Args:
        address: As Ray takes it.

    Returns:
        Whether something listens; False where the address names no host and port.

    Raises:
        OSError: Nothing listens there.
    """
    place = urlsplit(f"//{address}")
    if "://" in address or not place.hostname or not place.port:
        return False
    socket.create_connection((place.hostname, place.port), KNOCK_TIMEOUT_S).close()
    return True


def worker_resources(spec: RunSpec, has_gpus: bool | None = None) -> dict[str, float]:
    """What each worker of a run reserves, by Ray's names.

    Args:
        spec: The run.
        has_gpus: Whether there are any, which decides where the run does not; the connected cluster is asked where
            absent.
    """
    place = spec.distributed
    num_gpus = place.gpus_per_worker
    if num_gpus is None:
        are_there = ray.cluster_resources().get("GPU") if has_gpus is None else has_gpus
        num_gpus = 1 if are_there else 0
    resources = {"CPU": place.cpus_per_worker} | dict(place.resources_per_worker or {})
    return resources | ({"GPU": float(num_gpus)} if num_gpus else {})


def check_places(spec: RunSpec) -> None:
    """Refuse more workers than the cluster can ever hold, before anything waits for them.

    A cluster with an autoscaler is given the time to grow, where it is not known to stay too small.

    Args:
        spec: The run.

    Raises:
        InputError: The workers fit nowhere, even on an idle cluster, as large as it may become.
    """
    needed = worker_resources(spec)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_places = sum(places(node, needed) for node in nodes)
    fewest = spec.distributed.min_workers
    name, asked = ("num_workers", spec.distributed.num_workers) if fewest is None else ("min_workers", fewest)
    if num_places >= asked:
        return
    held = f"the cluster's {len(nodes)} node(s) can hold {num_places}"
    if can_grow():
        if (most := _most_places(needed)) is None or most >= asked:
            log.info("waiting for the cluster to grow: it can hold %d of %d workers of %s", num_places, asked, needed)
            return
        held += f", and {most} when its autoscaler has added all that max_workers lets it"
    raise InputError(
        f"distributed.{name}: {asked} workers of {needed} asked, {held}; lower {name}, cpus_per_worker or "
        "resources_per_worker, or add nodes"
    )


def _most_places(needed: dict[str, float]) -> int | None:
    """Places for workers when the connected cluster is as large as it may become; None where that is not known."""
    if (grown := room()) is None:
        return None
    on_added = sorted((places(node, needed) for node in grown.added), reverse=True)
    return places(grown.head, needed) + sum(on_added[: grown.at_once])


def warn_without_gpus(spec: RunSpec) -> None:
    """Say that workers go without a GPU where nodes that have one may only not be there yet.

    Args:
        spec: The run; one that says how many GPUs its workers take is not spoken of.
    """
    if spec.distributed.gpus_per_worker is not None or address_of(spec) == "local":
        return
    if "GPU" not in worker_resources(spec) and can_grow():
        log.warning(
            "distributed.gpus_per_worker: no node of the cluster has a GPU, so workers take none; where nodes with "
            "GPUs may come, set gpus_per_worker: 1, and they are asked for"
        )


def free_places(needed: dict[str, float], but: Container[str] = ()) -> list[str]:
    """Places for workers that the connected cluster has now, beside what runs: the id of each one's node.

    Args:
        needed: Resources of a worker.
        but: Nodes that do not count, by id.
    """
    free = ray._private.state.available_resources_per_node().items()
    return [node for node, left in free if node not in but for _ in range(places(left, needed))]


def places(node: dict[str, float], needed: dict[str, float]) -> int:
    """Workers that one idle node can hold.

    Args:
        node: Its resources by name.
        needed: Those of a worker.
    """
    return min(math.floor(node.get(name, 0.0) / amount) for name, amount in needed.items())
