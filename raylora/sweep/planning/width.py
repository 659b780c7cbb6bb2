"""How many slots a pack gets and where they live, each with its reason in words.

The memory of a group's packs enters; a width leaves, which the pack's calibration may lower. Called by `plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import Estimate
from raylora.train.prediction.pack_memory import PackMemory

KEPT_FREE = 0.1
"""Part of a worker's memory that a plan leaves alone: predictions hold to a tenth, and allocators leave gaps."""

PROCESS_BYTES = {"cpu": 600 * 10**6, "cuda": 500 * 10**6}
"""What a worker holds before it trains: Python with its libraries, or a CUDA context."""

HELD = {"cpu": 1.5, "cuda": 1.0}
"""Bytes that a worker holds for each that is predicted beside a frozen base, which is read once and stays. On a
CPU glibc keeps freed blocks, not all of which the next pass can use, and saves that are under way are copies: a pack of
four slots, predicted at 585 MB, grew by 966 MB over its first steps, and a run at 970 MB by 1.33 to 1.49 GB. CUDA's
allocator was not measured."""


@dataclass(frozen=True)
class Width:
    """The slots of a pack.

    Args:
        num_slots: Trials that it trains at once.
        slots_per_rank: Of those, the most that one worker computes.
        slots_stay_on_ranks: Each worker trains slots of its own, instead of its part of every slot's rows.
        why_so_many: What keeps it from having more.
        why_there: Why the slots live where they live.
    """

    num_slots: int
    slots_per_rank: int
    slots_stay_on_ranks: bool
    why_so_many: str
    why_there: str


def usable_bytes(offered_bytes: int, device: str) -> int:
    """What a plan counts on: the most that a worker may hold beside its process.

    Args:
        offered_bytes: Free memory of a worker's share of its node, or of its GPU.
        device: ``cpu`` or ``cuda``.
    """
    return max(0, int(offered_bytes * (1 - KEPT_FREE)) - PROCESS_BYTES[device])


def held_bytes(spec: RunSpec, memory: Estimate) -> int:
    """The most that a worker will hold beside its process: what is predicted, and what is not free again in time.

    Args:
        spec: Of the runs; a base that trains is copied into saves as adapters are.
        memory: Predicted for the worker and its slots.
    """
    stays = [0 if spec.trains_base else rank.base_bytes for rank in memory.ranks]
    return max(
        base + math.ceil(HELD[memory.device] * (rank.peak_bytes - base))
        for base, rank in zip(stays, memory.ranks, strict=True)
    )


def stay_on_ranks(num_slots: int, num_ranks: int) -> bool:
    """Whether each worker trains slots of its own, instead of its part of every slot's rows.

    Args:
        num_slots: Trials at once.
        num_ranks: Workers.
    """
    return 1 < num_ranks <= num_slots


def choose_width(
    spec: RunSpec, memory: PackMemory, rank_bytes: int, wanted: int, cap: int | None, why_wanted: str
) -> Width:
    """Choose the width of the packs of a group.

    Args:
        spec: The largest run of the group.
        memory: Of its packs.
        rank_bytes: What a worker may hold beside its process.
        wanted: Trials that there are for each pack.
        cap: The sweep's `slots`.
        why_wanted: Why it is not more, in words.
    """
    num_ranks = spec.distributed.num_workers
    asked = min(wanted, cap or wanted)
    stays = stay_on_ranks(asked, num_ranks)
    per_rank = -(-asked // num_ranks) if stays else asked
    fitting = memory.most_slots(lambda pack: held_bytes(spec, pack) <= rank_bytes, per_rank)
    num_slots = min(asked, max(1, fitting) * (num_ranks if stays else 1))
    if not fitting:
        needed = held_bytes(spec, memory.at(1))
        why = f"even one trial needs {_gb(needed)}, and a worker may hold {_gb(rank_bytes)}; it may not fit"
    elif num_slots < asked:
        needed = held_bytes(spec, memory.at(fitting + 1))
        why = f"{fitting + 1} trials on a worker would need {_gb(needed)} of the {_gb(rank_bytes)} that it may hold"
    elif asked < wanted:
        why = f"the sweep sets slots: {cap}"
    else:
        why = why_wanted
    if cap is not None:
        why += "; with slots set, no fewer are tried"
    return Width(num_slots, min(per_rank, max(1, fitting)), stays, why, _why_there(spec, asked))


def _why_there(spec: RunSpec, asked: int) -> str:
    num_ranks = spec.distributed.num_workers
    if num_ranks == 1:
        return "one worker holds the base and trains all trials of a pack"
    if asked < num_ranks:
        return (
            f"fewer trials at once than the {num_ranks} workers: each worker computes its part of every trial's rows, "
            "and one all-reduce a step sums the adapters' gradients"
        )
    base = "gather the sharded base once for all trials" if spec.shards_base else "hold the base each"
    return f"each trial trains on one of the {num_ranks} workers, which {base}; no gradient travels"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
