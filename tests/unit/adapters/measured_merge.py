"""Merges by the command and says how much memory each merge took beyond what the one before had left.

Arguments: a file for the bytes, as JSON, and for each merge a text of its words. The first pays for the libraries.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch

from raylora.cli.app import main
from raylora.train.memory import PeakMemory


def merged(words: str) -> int:
    """Bytes of anonymous memory at the peak of one merge, less those before."""
    sys.argv = ["raylora", "merge", *words.split()]
    gc.collect()
    with PeakMemory(torch.device("cpu")) as memory:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, words
    return memory.peak_bytes - memory.start_bytes


if __name__ == "__main__":
    file, *merges = sys.argv[1:]
    Path(file).write_text(json.dumps([merged(words) for words in merges]))
