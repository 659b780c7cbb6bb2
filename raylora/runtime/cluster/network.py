"""The workers' process group, on the network that Ray uses: gloo binds to the interface of its node's address.

Left alone, gloo takes whatever the host's name resolves to. On many hosts that is a loopback address, and workers on
two of them never meet. Ray Train's own way to a process group would do the rest, but imports torch into Ray Train's
controller before any worker may start; here torch is imported by the workers alone. Called by the worker group.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework
from typing_extensions import override

from raylora.runtime.cluster.imports import importing

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Gloo's own variable; a value set on a node stays."""

LEAVE_S = 5.0
"""Workers that live leave at once; whoever does not answer by then is stopped or cut off, and is ended anyway."""

log = logging.getLogger("ray.train")
"""The one that Ray lets its controller write."""


@dataclass
class NodeNetwork(BackendConfig):
    """A process group on the nodes' own network.

    Args:
        backend: ``gloo`` or ``nccl``.
        timeout_s: Seconds after which a collective operation has failed.
    """

    backend: str
    timeout_s: int

    @property
    @override
    def backend_cls(self) -> type[Backend]:
        return _NodeNetworkBackend

    @property
    @override
    def train_func_context(self) -> type[AbstractContextManager[Any]]:
        from ray.train.torch.config import TorchConfigContextManager

        return TorchConfigContextManager

    @property
    @override
    def framework(self) -> TrainingFramework:
        return TrainingFramework.TORCH

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend, "timeout_s": self.timeout_s}


class _NodeNetworkBackend(Backend):
    """Runs in the controller."""

    share_cuda_visible_devices = True

    @override
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(prepare, address, port)
        world_size = len(worker_group)
        joined: list[Any] = [
            worker_group.execute_single_async(rank, join, backend_config, rank, world_size)
            for rank in range(world_size)
        ]
        ray.get(joined)

    @override
    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        left: list[Any] = worker_group.execute_async(leave)
        try:
            ray.get(left, timeout=LEAVE_S)
        except GetTimeoutError:
            log.warning("workers did not leave their process group within %.0f seconds", LEAVE_S)


def prepare(address: str, port: int) -> None:
    """Let this worker do what takes longer on some than on others, before any waits for the others.

    Args:
        address: Of the worker of rank 0.
        port: There.
    """
    bind_to_node()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    with importing():
        from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()


def join(network: NodeNetwork, rank: int, world_size: int) -> None:
    """Make this worker a member of the process group; returns when all are.

    Args:
        network: How they talk.
        rank: Of this worker.
        world_size: Number of workers.
    """
    from ray.train.torch.config import _setup_torch_process_group

    _setup_torch_process_group(network.backend, rank, world_size, "env://", network.timeout_s)


def leave() -> None:
    """End this worker's membership."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=True)


def bind_to_node() -> None:
    """Choose the interface for this worker before its process group is made."""
    if INTERFACE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[INTERFACE] = name


def interface_of(address: str) -> str | None:
    """Name of the network interface with an address; ``None`` where this machine has none such."""
    for name, addresses in psutil.net_if_addrs().items():
        # An IPv6 address of one link carries the link's name after a percent sign.
        if address in {known.address.partition("%")[0] for known in addresses}:
            return str(name)
    return None
