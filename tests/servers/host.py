"""Two hosts on one machine: network namespaces with a link between them, and a private disk in the second."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers.lacking import PRIVILEGE, lacking

NETWORK = "198.18.77"
"""Of the range that is set aside for trials of network equipment."""


@dataclass(frozen=True)
class Host:
    """One of the two.

    Args:
        name: Of its network namespace.
        address: Its only address beside loopback.
    """

    name: str
    address: str

    @property
    def door(self) -> list[str]:
        """Words before a command that make it run there."""
        return ["ip", "netns", "exec", self.name]

    def cut_off(self) -> None:
        """Take its link down: nobody hears of it, and it of nobody."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def link_up(self) -> None:
        """Bring its link up again."""
        _ip("-n", self.name, "link", "set", "eth0", "up")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make the hosts and the link, and take them away again."""
    if shutil.which("ip") is None:
        lacking("there is no `ip` command", "install iproute2")
    if os.geteuid() != 0:
        lacking("only root may make network namespaces", "run the tests as root")
    hosts = tuple(Host(f"raylora-{os.getpid()}-{end}", f"{NETWORK}.{number}") for number, end in ((1, "a"), (2, "b")))
    try:
        for host in hosts:
            made = _ip("netns", "add", host.name, check=False)
            if made.returncode != 0:
                lacking(f"this machine makes no network namespaces: {made.stderr.strip()}", PRIVILEGE)
        _ip("link", "add", "eth0", "netns", hosts[0].name, "type", "veth", "peer", "eth0", "netns", hosts[1].name)
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", link, "up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            _ip("netns", "delete", host.name, check=False)


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True, timeout=30)


def private(folders: Sequence[object], command: Sequence[str]) -> list[str]:
    """A command that sees empty disks in place of folders; for use behind a host's door, which hides mounts."""
    mounts = " && ".join(f"mount -t tmpfs tmpfs '{folder}'" for folder in folders)
    return ["sh", "-c", f'{mounts} && exec "$@"', "sh", *command]
