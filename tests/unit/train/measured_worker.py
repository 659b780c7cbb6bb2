"""What each of two workers does: builds run after run, steps each two or three times, and writes the bytes held.

Enters: a folder with one `*.spec.json` for each run, beside it the folder of its base, by argument; rank and world
size by environment. Leaves there: one `*.json` for each.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from raylora.data.collate import Batch
from raylora.spec.fields.labels import IGNORED
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.step import Share, train_step
from raylora.train.trainee import Trainee


def full_batch(spec: RunSpec, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    ids_BT = torch.randint(0, 256, (spec.micro_batch_size, spec.sequence_len), generator=generator)
    positions_BT = torch.arange(spec.sequence_len).expand_as(ids_BT).contiguous()
    segments_BT = torch.ones_like(ids_BT)
    rows = tuple((line,) for line in range(spec.micro_batch_size))
    if spec.has_two_sides:
        return two_sides(ids_BT, rows, step)
    if spec.sample_packing:
        segments_BT[:, spec.sequence_len // 2 :] = 2
        rows = tuple((line, line + 1) for line in range(spec.micro_batch_size))
    return Batch(ids_BT, ids_BT, positions_BT, segments_BT, rows)


def two_sides(ids_BT: Tensor, rows: tuple[tuple[int, ...], ...], step: int) -> Batch:
    """Sources and targets of `sequence_len` tokens each, as where one row is all source, another all target.

    A row that is alone is all source in even steps, and all target in odd ones.
    """
    num_rows, num_tokens = ids_BT.shape
    sizes = [num_tokens, num_tokens]
    if num_rows == 1:
        sizes = [1, num_tokens - 1] if step % 2 else [num_tokens - 1, 1]
    parts = [ids_BT[:, :size] for size in sizes]
    both_BT = torch.cat(parts, dim=1)
    segments_BT = torch.cat([torch.full_like(part, side) for side, part in enumerate(parts, start=1)], dim=1)
    labels_BT = both_BT.masked_fill(segments_BT == 1, IGNORED)
    positions_BT = torch.cat([torch.arange(size) for size in sizes]).expand_as(both_BT).contiguous()
    return Batch(both_BT, labels_BT, positions_BT, segments_BT, tuple(row * 2 for row in rows))


def share(trainee: Trainee, step: int, slot: int = 0) -> Share:
    """A slot's full batches of a step."""
    batch = full_batch(trainee.spec, step + slot)
    return Share(slot, step, 1e-3, [batch] * trainee.spec.gradient_accumulation_steps)


def step_peak(trainee: Trainee, shares: list[Share]) -> int:
    """Most bytes that torch's allocator handed out during a step and had not got back.

    Garbage that was there before the step must not go within it, as if the step had given it back.
    """
    gc.disable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(trainee, shares)
    gc.enable()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def resident() -> int:
    """Bytes of all tensors that are there between steps, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def moments_bytes(trainee: Trainee) -> int:
    """Bytes of what this rank's optimizer keeps of each parameter, GaLore's projections among them."""
    kept = []
    for state in trainee.steppers[0]._optimizer.state.values():
        kept += [value for name, value in state.items() if isinstance(value, Tensor) and name != "step"]
        kept += [state["projector"].ortho_matrix] if "projector" in state else []
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def measure(spec: RunSpec, folder: Path) -> list[dict[str, int]]:
    """What each rank held."""
    before = resident()
    trainee = build(spec, folder, ("base", None), torch.device("cpu"))
    trainee.begin(0, spec, num_steps=10)
    first = share(trainee, 0)
    if spec.init_lora_weights == "eva":
        first = replace(first, start_rows=first.batches)
    first_peak_bytes = step_peak(trainee, [first])  # makes the optimizer's state
    # ZeRO-3's second step is the first that gathers ahead; AdaLoRA's the first that judges ranks.
    if trainee.strategy.name == "zero3" or spec.adapter == "adalora":
        train_step(trainee, [share(trainee, 1)])
    last_steps = (2, 3) if spec.has_two_sides else (2,)
    peak_bytes = max(step_peak(trainee, [share(trainee, step)]) for step in last_steps)
    resident_bytes = resident() - before
    adapters = [] if spec.trains_base else [*trainee.bank.parameters(0).values(), *trainee.bank.frozen(0)]
    if allocation := trainee.allocations.get(0):
        adapters += [mean for _, mean in allocation.state() if mean.is_floating_point()]
    mine = {
        "base_bytes": trainee.held_base_bytes,
        "adapters_bytes": sum(parameter.numel() * parameter.element_size() for parameter in adapters),
        "moments_bytes": moments_bytes(trainee),
        "trainable_parameters": trainee.num_trainable(0),
        "resident_bytes": resident_bytes,
        "first_peak_bytes": first_peak_bytes,
        "step_peak_bytes": peak_bytes,
    }
    return list(trainee.ranks.gather(mine))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for file in sorted(folder.glob("*.spec.json")):
        asked = json.loads(file.read_text())
        ranks = measure(RunSpec.model_validate(asked["spec"]), Path(asked["base"]))
        if dist.get_rank() == 0:
            file.with_name(file.name.replace(".spec.", ".")).write_text(json.dumps(ranks))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is written; torch's threads abort the end of a profiled process now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
