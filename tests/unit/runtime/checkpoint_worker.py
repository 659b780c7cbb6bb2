"""One of two workers that each load a checkpoint of their own and compare them, for a run alone and in a pack.

Run by test_same_checkpoint with a folder of stores, one for each case and rank. Leaves there what each rank heard, as
JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from raylora.errors import StoreError
from raylora.runtime.cluster.desk_messages import Admit
from raylora.runtime.job.same_checkpoint import load_alike
from raylora.store.blob import open_store
from raylora.store.checkpoint import load_latest
from raylora.train.ranks import Ranks
from tests.unit.runtime.opened_pack import Post, open_pack
from tests.unit.train.tiny_run import tiny_spec

CASES = ("alike", "one damaged", "one empty", "others", "one all damaged", "both empty")
PACK = "one damaged"


def alone(store_uri: str, ranks: Ranks) -> str:
    """What a run alone hears."""
    try:
        found = load_alike(ranks, partial(load_latest, open_store(store_uri)))
    except StoreError as error:
        return str(error)
    return "anew" if found is None else f"step {found.step}"


def packed(store_uri: str, folder: Path) -> list[str]:
    """What a pack reports of a trial that is to go on from the newest checkpoint."""
    spec = tiny_spec(folder / "base", folder / "rows.jsonl", distributed={"num_workers": 2}, max_steps=3)
    pack = open_pack(spec, Post(), folder)
    pack._obey(Admit("lease", 0, spec, "run", f"{store_uri}/checkpoints/step-00000002"))
    assert pack._leases["lease"].member is None
    return [f"{report.kind}: {report.values['error']}" for report in pack._reports]


def main(folder: Path) -> None:
    """Load in every case."""
    dist.init_process_group("gloo")
    ranks = Ranks.current()
    stores = {case: str(folder / case / f"rank-{ranks.rank}") for case in CASES}
    heard: dict[str, object] = {case: alone(stores[case], ranks) for case in CASES}
    heard["pack"] = packed(stores[PACK], folder)
    (folder / f"heard-{ranks.rank}.json").write_text(json.dumps(heard))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
