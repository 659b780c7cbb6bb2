"""The command `raylora`, with a watch on what its driver does before the first step; started by `start.py`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the command and write down when what happened."""
    from raylora.cli import app, progress

    marks: dict[str, Any] = {"command line": time.time(), "driver_s": {}, "worker_s": {}}
    _watch(progress.PlainDisplay, marks)
    importing = time.time()
    import ray

    from raylora.runtime import launch

    del launch
    marks["driver_s"]["import Ray"] = time.time() - importing
    ray.init = _timed(ray.init, "start Ray", marks)
    try:
        app.main()
    finally:
        Path(os.environ["RAYLORA_BENCHMARK_MARKS"]).write_text(json.dumps(marks))


def _watch(display: Any, marks: dict[str, Any]) -> None:
    show = display.show

    def watched(self: Any, event: Any) -> None:
        if event.kind == "phase":
            marks["worker_s"][event.values["name"]] = event.values["seconds"]
        elif event.kind == "start":
            marks["start"] = time.time()
        show(self, event)

    display.show = watched


def _timed(function: Any, name: str, marks: dict[str, Any]) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        value = function(*args, **kwargs)
        marks["driver_s"][name] = time.time() - start
        return value

    return timed


if __name__ == "__main__":
    main()
