"""The peak of memory over a stretch of work: measured, not estimated."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

INTERVAL_S = 0.02


class PeakMemory:
    """Measures the peak while its block runs.

    On CUDA the allocator's own peak; on a CPU the process's anonymous memory, sampled by a thread (what is
    mapped from files, such as weights being read, belongs to the page cache and does not count).

    Args:
        device: What to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.start_bytes = 0
        self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self.start_bytes = self.peak_bytes = self._now()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self._device)
            return
        self._done.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._now())

    def _sample(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, self._now())

    def _now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return anonymous_bytes()


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process, from Linux's ``/proc``; 0 where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
