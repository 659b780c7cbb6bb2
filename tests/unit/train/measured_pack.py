"""A process of its own: places a base, fills slots one after the other, and writes the bytes that were really held."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from raylora.spec.run import RunSpec
from raylora.train.build import Trainee, place_base
from raylora.train.step import Share, train_step
from tests.unit.train.measured_worker import full_batch, resident

WIDTHS = (1, 4, 8)


def step_peak(trainee: Trainee, num_slots: int, step: int) -> int:
    """Most bytes that torch's allocator handed out during a step of all slots and had not got back."""
    shares = [Share(slot, step, 1e-3, [full_batch(trainee.spec, slot)]) for slot in range(num_slots)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(trainee, shares)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def main(spec_file: Path, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    spec = RunSpec.model_validate_json(spec_file.read_text())
    trainee = place_base(spec, folder, ("base", None), torch.device("cpu"))
    trainee.train_mode(True)
    found = {}
    for num_slots in WIDTHS:
        for slot in range(len(trainee.steppers), num_slots):
            trainee.admit(slot, spec)
        step_peak(trainee, num_slots, 0)  # makes the optimizers' state
        peak_bytes, resident_bytes = step_peak(trainee, num_slots, 1), resident()
        found[num_slots] = {
            "base_bytes": trainee.held_base_bytes,
            "resident_bytes": resident_bytes,
            "step_peak_bytes": peak_bytes,
        }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
