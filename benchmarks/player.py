"""A rank's half of the conversation with `turns.py`: ready, wait, work, report, wait."""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Callable
from time import perf_counter, process_time

ADDRESS = "RAYLORA_BENCHMARK_ADDRESS"
SIDE = "RAYLORA_BENCHMARK_SIDE"


class Player:
    """Connects this process to the stage that started it."""

    def __init__(self) -> None:
        host, _, port = os.environ[ADDRESS].rpartition(":")
        self._lines = socket.create_connection((host, int(port))).makefile("rw")
        self._started = (0.0, 0.0)

    def tell(self, **facts: object) -> None:
        """Say something: once when ready, then once a turn."""
        rank = int(os.environ.get("RANK", "0"))
        self._lines.write(json.dumps({"rank": rank, **facts}) + "\n")
        self._lines.flush()

    def wait(self) -> bool:
        """Wait for a turn, and start the clock; false when there is none any more."""
        going = self._lines.readline() == "go\n"
        self._started = (perf_counter(), process_time())
        return going

    def stop(self) -> dict[str, float]:
        """Stop the clock; what it says goes into what is told."""
        return {"wall_s": perf_counter() - self._started[0], "cpu_s": process_time() - self._started[1]}


def play(main: Callable[[Player], None]) -> None:
    """Run a side; what it raises is told before it ends."""
    player = Player()
    try:
        main(player)
    except Exception as error:  # the edge of this process: whoever conducts is told, whatever it was
        traceback.print_exc()
        player.tell(error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
