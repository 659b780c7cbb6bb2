"""Gloo on the network that Ray uses: every worker binds to the interface of its own node's address.

Left alone, gloo takes whatever the host's name resolves to. On many hosts that is a loopback address, and workers on
two of them never meet. Called by the worker group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch.config import TorchConfig, _TorchBackend
from typing_extensions import override

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Gloo's own variable; a value set on a node stays."""


@dataclass
class NodeNetwork(TorchConfig):
    """Ray Train's process group, on the nodes' own network."""

    @property
    @override
    def backend_cls(self) -> type[_TorchBackend]:
        return _NodeNetworkBackend


class _NodeNetworkBackend(_TorchBackend):
    @override
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        worker_group.execute(bind_to_node)
        super().on_start(worker_group, cast("TorchConfig", backend_config))


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
