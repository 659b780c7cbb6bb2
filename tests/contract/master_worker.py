"""What each of two workers does where weights in bfloat16 step by a float32 copy: ZeRO-1 and ZeRO-2, no model.

Enters: a folder, by argument; rank and world size by environment. Leaves there: what a run without a break came to, and
one that went on from its state, moments among them; what that state took to gather. Started by `strategy_group`.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from raylora.strategy.contract import Stepper, Strategy
from raylora.strategy.ddp import Ddp
from raylora.strategy.deepspeed import ZeroOptimizer
from raylora.strategy.shard_stepper import ShardStepper
from raylora.train.prediction.live_bytes import LiveBytes
from raylora.train.ranks import Ranks
from tests.contract.strategy_worker import keep

RATE = 2e-4
"""Of weights about 1, less than half of what bfloat16 tells apart."""
DECAY, NORM = 0.1, 1.0
ADAMW = functools.partial(torch.optim.AdamW, lr=0.0, weight_decay=DECAY, fused=True)
HALF, SECOND_HALF = range(10), range(10, 30)


def parameters() -> dict[str, nn.Parameter]:
    """Of sizes that two ranks cannot halve."""
    torch.manual_seed(0)
    shapes = {"wide.weight": (5, 7), "short.weight": (3,)}
    return {name: nn.Parameter(1 + torch.rand(shape).bfloat16()) for name, shape in shapes.items()}


def loss_of(named: Mapping[str, Tensor], step: int) -> Tensor:
    """How far the weights are from the targets of a step."""
    generator = torch.Generator().manual_seed(step)
    losses = [((p.float() - torch.randn(p.shape, generator=generator)) ** 2).mean() for p in named.values()]
    return torch.stack(losses).sum()


def run(stepper: Stepper, named: Mapping[str, nn.Parameter], steps: range) -> None:
    """Move the weights towards other targets in each step."""
    for step in steps:
        stepper.backward(loss_of(named, step) / dist.get_world_size())
        if stepper.unsummed is not None:
            dist.all_reduce(stepper.unsummed)
        stepper.step(RATE)


def begin(strategy: Strategy) -> tuple[dict[str, nn.Parameter], Stepper]:
    """Fresh weights and their stepper."""
    named = parameters()
    return named, strategy.stepper(named, ADAMW, NORM, dict.fromkeys(named, 1.0))


def state_of(stepper: Stepper) -> dict[str, Tensor]:
    """What rank 0 has of the state, on every rank, as a checkpoint hands it out."""
    of_ranks: list[dict[str, Tensor]] = Ranks.current().gather({name: each.clone() for name, each in stepper.state()})
    return of_ranks[0]


def gathering(stepper: Stepper) -> dict[str, list[int]]:
    """Of each rank, the tensors that it sees of the state, and the most bytes that were made to gather them."""
    there = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    num_seen = 0
    with LiveBytes(there) as live:
        for _, tensor in stepper.state():
            num_seen += 1
            del tensor  # as a checkpoint does, before the next one is gathered
    of_ranks = Ranks.current().gather((num_seen, live.lap()))
    return {"num_seen": [seen for seen, _ in of_ranks], "peak_bytes": [peak for _, peak in of_ranks]}


def go_on(strategy: Strategy, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The second half from what the first one left, in a run that has stepped elsewhere."""
    named, stepper = begin(strategy)
    run(stepper, named, range(90, 92))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    stepper.load_state(state)
    taken_up = values(state_of(stepper))
    run(stepper, named, SECOND_HALF)
    return {"weights": values(named), "taken_up": taken_up, "state": values(state_of(stepper))}


def one_step_of_shards(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights that FSDP2 would hold, and that go on from what the first half left."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def shard(whole: Tensor) -> Tensor:
        return distribute_tensor(whole, mesh, [Shard(0)])

    named = {name: nn.Parameter(shard(whole)) for name, whole in weights.items()}
    stepper = ShardStepper(named, ADAMW, NORM)
    stepper.load_state(state)
    taken_up = values(state_of(stepper))
    for name, parameter in named.items():
        parameter.grad = shard(torch.ones_like(weights[name]))
    stepper.step(RATE)
    return {
        "weights": values({name: parameter.full_tensor() for name, parameter in named.items()}),
        "taken_up": taken_up,
    }


def values(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().float().tolist() for name, tensor in tensors.items()}


def see(stage: int) -> dict[str, Any]:
    """A run without a break, and what goes on from its middle."""
    named, stepper = begin(ZeroOptimizer(stage, trains_base=True))
    run(stepper, named, HALF)
    weights = {name: parameter.detach().clone() for name, parameter in named.items()}
    gathered, state = gathering(stepper), state_of(stepper)
    run(stepper, named, SECOND_HALF)
    return {
        "gathering": gathered,
        "half": {"weights": values(weights), "state": values(state)},
        "whole": {"weights": values(named), "state": values(state_of(stepper))},
        "resumed": go_on(ZeroOptimizer(stage, trains_base=True), weights, state),
        "under_ddp": go_on(Ddp(), weights, state),
        "under_fsdp": one_step_of_shards(weights, state),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    for stage in (1, 2):
        keep(Path(sys.argv[1]), f"zero{stage}", functools.partial(see, stage))
    dist.destroy_process_group()
