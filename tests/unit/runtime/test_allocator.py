"""Memory that was freed stays with the process, where the C library would give it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, psutil, torch
from raylora.runtime.cluster.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = psutil.Process().memory_info().rss
tensors = [torch.ones(5 * 2**20) for _ in range(8)]
del tensors
print(psutil.Process().memory_info().rss - before)
"""
NUM_BYTES = 8 * 20 * 2**20


def held_after(how: str) -> int:
    """Bytes that a new process holds of `NUM_BYTES` that it has freed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own settings")
def test_what_is_freed_is_kept():
    assert held_after("keep") > 0.9 * NUM_BYTES
    assert held_after("leave") < 0.1 * NUM_BYTES
