"""Memory that is freed and taken again costs no page anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from raylora.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()

def once():
    kept = [torch.ones(5 * 2**20) for _ in range(8)]

once()
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_pages_anew(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own settings")
def test_what_is_freed_is_taken_again():
    assert num_pages_anew("keep") < 1000 < num_pages_anew("leave")
