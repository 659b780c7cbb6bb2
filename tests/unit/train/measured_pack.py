"""A process of its own: places a base, fills slots one after the other, and writes the bytes that were really held.

Enters: the folder of the base and one with a `*.spec.json` for each pack, by argument. Leaves there one `*.json` each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from raylora.spec.run import RunSpec
from raylora.train.build import place_base
from raylora.train.step import train_step
from tests.unit.train.measured_worker import resident, share, step_peak

WIDTHS = (1, 4, 8)


def measure(spec: RunSpec, base: Path) -> dict[int, dict[str, int]]:
    """What is held at each width."""
    before = resident()
    trainee = place_base(spec, base, ("base", None), torch.device("cpu"))
    trainee.train_mode(True)
    found = {}
    for num_slots in WIDTHS:
        for slot in range(len(trainee.steppers), num_slots):
            trainee.admit(slot, spec)
        train_step(trainee, [share(trainee, 0, slot) for slot in range(num_slots)])  # makes the optimizers' state
        peak_bytes = step_peak(trainee, [share(trainee, 1, slot) for slot in range(num_slots)])
        found[num_slots] = {
            "base_bytes": trainee.held_base_bytes,
            "resident_bytes": resident() - before,
            "step_peak_bytes": peak_bytes,
        }
    return found


def main(base: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    for file in sorted(folder.glob("*.spec.json")):
        found = measure(RunSpec.model_validate_json(file.read_text()), base)
        file.with_name(file.name.replace(".spec.", ".")).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
