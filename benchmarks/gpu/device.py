"""A device: its name, its time, its peaks, and what it has left. On a CPU the same, so that scripts can be tried."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import torch
from bitsandbytes.functional import GlobalPageManager

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "triton", "liger-kernel", "deepspeed")
"""Told where they are there; the first four are needed."""
SQUARE = {"cuda": 8192, "cpu": 1024}
"""Side of the matrices whose product is the peak of operations."""
COPIED_BYTES = {"cuda": 2**31, "cpu": 2**26}
"""Of the block whose copy is the peak of memory."""
REPEATS = {"cuda": 20, "cpu": 5}


def described(device: torch.device) -> dict[str, Any]:
    """Name, memory, versions and today's date."""
    name, num_bytes = f"CPU ({platform.machine()})", 0
    if device.type == "cuda":
        name, num_bytes = torch.cuda.get_device_name(device), total_bytes(device)
    versions = {package: number for package in PACKAGES if (number := _version(package)) is not None}
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "device": name, "gib": round(num_bytes / 2**30, 1), "versions": versions}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def wait(device: torch.device) -> None:
    """Until all that was asked of it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of one of so many runs of some work, with all that it asked of the device."""
    wait(device)
    start = perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (perf_counter() - start) / repeats


def call_all(works: Sequence[Callable[[], Any]]) -> None:
    """One after the other, keeping nothing."""
    for work in works:
        work()


def replayed(device: torch.device, works: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """Seconds of one of some works, replayed as one CUDA graph: the device's time, without Python and launches.

    On a CPU they are called.

    Args:
        device: On which.
        works: None waits for the device.
        turns: How often.

    Raises:
        RuntimeError: CUDA cannot record one of them.
    """
    if device.type != "cuda":
        return [timed(device, partial(call_all, works)) / len(works) for _ in range(turns)]
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):  # what a library sets up at its first call is not recorded
        call_all(works)
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call_all(works)
    graph.replay()
    return [timed(device, graph.replay) / len(works) for _ in range(turns)]


def square_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large square products."""
    size = SQUARE[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    return 2 * size**3 / timed(device, lambda: torch.mm(left, right), REPEATS[device.type])


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, both counted."""
    source = torch.randint(256, (COPIED_BYTES[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / timed(device, lambda: target.copy_(source), REPEATS[device.type])


def total_bytes(device: torch.device) -> int:
    """Memory of a CUDA device."""
    return torch.cuda.get_device_properties(device).total_memory


@contextmanager
def capped(device: torch.device, num_bytes: int) -> Iterator[None]:
    """Let torch take no more than this much of a CUDA device while the block runs; nothing happens on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total_bytes(device)), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def only_left(device: torch.device, num_bytes: int) -> Iterator[None]:
    """Fill a CUDA device until this much is free, for whoever allocates within; nothing happens on a CPU.

    What the driver shares out itself, such as paged memory, has no more room either: a cap would not stop it.
    """
    if device.type != "cuda":
        yield
        return
    forget(device)
    # bitsandbytes never frees these; what of them lies on the device would make room later.
    GlobalPageManager.get_instance().prefetch_all(to_cpu=True)
    wait(device)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    ballast = torch.empty(max(0, free_bytes - num_bytes), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del ballast
        forget(device)


def forget(device: torch.device) -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
