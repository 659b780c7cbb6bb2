"""`python -m benchmarks [NAME ...]`: measure, write benchmarks/results/NAME.json, and render the documents."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ALONE = ("demo", "solo", "workers", "memory", "full", "start", "saving", "recovery")
PACKED = ("packing", "packing_workers", "slots", "makespan_short", "makespan_longer")
NAMES = ALONE + PACKED


def main() -> None:
    """Measure what was asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is given")
    parser.add_argument("--turns", type=int, default=7, help="turns of each side that count (default: 7)")
    parser.add_argument("--try", dest="tries", action="store_true", help="a tiny model; only tries the code")
    parser.add_argument("--render", action="store_true", help="only write docs/benchmarks.md from the results")
    asked = parser.parse_args()
    names = asked.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    # Before torch is imported here: this process only conducts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from benchmarks.machine import machine
    from benchmarks.report import render
    from benchmarks.results import RESULTS, load, save
    from benchmarks.rows import real_material, tiny_material
    from benchmarks.slots_picture import draw_slots
    from benchmarks.turns import REPOSITORY

    with TemporaryDirectory(prefix="raylora-benchmarks-") as folder:
        results = Path(folder, "results") if asked.tries else RESULTS
        if not asked.render:
            material = (tiny_material if asked.tries else real_material)(Path(folder))
            for name in names:
                print(f"== {name}", file=sys.stderr, flush=True)
                benchmark = importlib.import_module(f"benchmarks.{name}")
                turns = min(asked.turns, getattr(benchmark, "MOST_TURNS", asked.turns))
                place = machine()  # before: the load is that of others
                found = benchmark.measure(material, turns)
                save(results, name, place, {"base": material.name, "turns": turns}, found)
        text, docs = render(results), Path(folder) if asked.tries else REPOSITORY / "docs"
        if (slots := load(results, "slots")) is not None:
            draw_slots(slots["results"], docs / "pictures")
        if asked.tries:
            print(text)
        else:
            from benchmarks.gpu.guide import render as render_gpu

            (docs / "benchmarks.md").write_text(text)
            (docs / "benchmarks-gpu.md").write_text(render_gpu(RESULTS))


if __name__ == "__main__":
    main()
