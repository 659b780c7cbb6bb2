"""One of two workers of a pack with slots at home: three runs, of which the second, alone on its rank, ends early.

Run by test_evening with a folder that has a base and rows. Leaves there what became of the runs, as JSON: where the
third moved to the idle rank, where nothing moves, and where it cannot be taken in.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raylora.errors import RunFailedError
from raylora.runtime.cluster.desk_messages import Admit, Go, Report, Save
from raylora.runtime.pack import pack as pack_module
from raylora.spec.run import RunSpec
from raylora.train.ranks import Ranks
from raylora.train.trainee import Trainee
from tests.unit.runtime.opened_pack import Post, open_pack
from tests.unit.train.tiny_run import tiny_spec

NUM_STEPS = [7, 2, 7]
MOVED = "lease2"
SAVED_STEP = 5


def specs_of(folder: Path) -> list[RunSpec]:
    shared = {
        "distributed": {"num_workers": 2},
        "val_set_size": 6,
        "eval_steps": 2,
        "save_steps": 2,
        "lora_dropout": 0.2,
    }
    return [
        tiny_spec(folder / "base", folder / "rows.jsonl", max_steps=steps, seed=seed, **shared)
        for seed, steps in enumerate(NUM_STEPS)
    ]


def train(folder: Path, case: str) -> dict[str, Any]:
    """Train all three to their ends; what became of them, the same on both ranks."""
    specs, post = specs_of(folder), Post()
    pack = open_pack(specs[0], post, folder / case, num_slots=3, slots_stay_on_ranks=True)
    ranks = pack._trainee.ranks
    for number, spec in enumerate(specs):
        pack._obey(Admit(f"lease{number}", number, spec, f"run{number}", None))
    owners, told = {}, list[Report]()
    while pack._leases:
        for name, lease in pack._leases.items():
            pack._obey(Go(name))
            owners[name] = lease.owner
        pack._turn()
        if any(report.step == SAVED_STEP for report in pack._reports):
            pack._obey(Save(MOVED))
        of_turn = [report for of_rank in ranks.gather(pack._reports) for report in of_rank]
        pack._reports, told = [], told + of_turn
        for report in of_turn:
            pack._note(report)
        pack._even_out()
    events = [event for of_rank in ranks.gather(post.events) for event in of_rank]
    names, runs = sorted(owners), [f"run{number}" for number in range(len(specs))]
    ends = {report.lease: report for report in told if report.kind == "finished"}
    return {
        "ranks": [owners[name] for name in names],
        "steps": [ends[name].step for name in names],
        "adapters": [digest(str(ends[name].values["adapter_uri"])) for name in names],
        "losses": [[event.values for event in of(events, run, "eval")] for run in runs],
        "begun": [len(of(events, run, "start")) for run in runs],
        "saved": [digest(str(report.values["uri"])) for report in told if report.kind == "saved"],
    }


def of(events: list[Any], run: str, kind: str) -> list[Any]:
    return sorted(
        (event for event in events if (event.run_id, event.kind) == (run, kind)), key=lambda event: event.step
    )


def digest(uri: str) -> str:
    """Of the tensors in a folder."""
    whole = hashlib.sha256()
    for file in sorted(Path(uri).glob("*.safetensors")):
        whole.update(file.read_bytes())
    return whole.hexdigest()


def refusing(asked: list[str]) -> Callable[..., None]:
    """`Trainee.admit` that has no memory for a run that comes later."""
    admit = Trainee.admit

    def refuse(trainee: Trainee, slot: int, spec: RunSpec) -> None:
        if spec.seed == 2 and len(asked) < 3 and trainee.ranks.rank == 1:
            asked.append(MOVED)
            raise RunFailedError("no memory")
        admit(trainee, slot, spec)

    return refuse


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    found = {"moved": train(folder, "moved")}
    due, admit = pack_module.due_move, Trainee.admit
    pack_module.due_move = lambda owners, num_ranks, unmoved: None
    found["stayed"] = train(folder, "stayed")
    pack_module.due_move, asked = due, list[str]()
    Trainee.admit = refusing(asked)
    found["refused"] = train(folder, "refused")
    Trainee.admit = admit
    found["refused"]["asked"] = [name for of_rank in Ranks.current().gather(asked) for name in of_rank]
    if dist.get_rank() == 0:
        for name, told in found.items():
            (folder / f"{name}.json").write_text(json.dumps(told))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
