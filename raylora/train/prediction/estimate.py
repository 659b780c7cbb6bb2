"""Trainable parameters and bytes on each rank, predicted from config.json alone.

Specs and a config enter; counts leave. What is counted and how well it held: ``docs/estimate.md``. Called by the
runtime and the sweep's planner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from raylora.log import get_logger
from raylora.model.adapter.slot import slot_of
from raylora.model.bank.heads import without_head
from raylora.model.base.dtype import compute_dtype
from raylora.model.base.load import base_on_meta
from raylora.model.base.unreached import warning_of_unreached
from raylora.model.targets import match_targets
from raylora.spec.fields.place import DistributedSpec
from raylora.spec.run import RunSpec
from raylora.spec.value_shape import row_tokens
from raylora.strategy.shares import Gathered, StrategyKind, gathered, piece, strategy_kind
from raylora.train.build import make_bank
from raylora.train.eva import A, start_bytes
from raylora.train.prediction.base_bytes import StoredParameter, by_block, stored_parameters
from raylora.train.prediction.dry_run import StepBytes, dry_run
from raylora.train.prediction.full_batches import META
from raylora.train.prediction.trained_bytes import Trained, trained_adapters, trained_base
from raylora.train.steppers import projected_names

log = get_logger(__name__)


@dataclass(frozen=True)
class RankBytes:
    """Bytes on one rank. Parts are each part's own largest; they need not meet at the same moment.

    Args:
        base_bytes: The base between steps, scales included, whether it trains or not.
        quant_state_bytes: Of `base_bytes`, the scales that undo the quantization.
        adapters_bytes: The adapters, with what they hold and do not train.
        gradients_bytes: Gradients of what trains; under ZeRO-1 and 2 with the engine's bucket of them.
        optimizer_bytes: The optimizer's state; under ZeRO-1 and 2 with its own copy of what trains.
        activations_bytes: Forward and backward pass, one unpacked weight included.
        logits_bytes: Output head and loss beyond what is saved for the backward pass.
        gathered_bytes: Parameters gathered from other ranks.
        host_bytes: Of the above, what is kept in, or paged out to, host memory of a GPU run.
        step_peak_bytes: Most while a pass and the updates after it run, without `host_bytes`.
        between_peak_bytes: Most between passes, without `host_bytes`: beside what lies there, what EVA's start takes of
            one slot, AdaLoRA's penalty of all, and its judgement of the ranks of one.
    """

    base_bytes: int
    quant_state_bytes: int
    adapters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    gathered_bytes: int
    host_bytes: int
    step_peak_bytes: int
    between_peak_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Most at any moment, without `host_bytes`."""
        return max(self.step_peak_bytes, self.between_peak_bytes)

    def to_json(self) -> dict[str, int]:
        """The parts and the peak."""
        return asdict(self) | {"peak_bytes": self.peak_bytes}


@dataclass(frozen=True)
class Estimate:
    """A predicted run.

    Args:
        strategy: ``ddp``, ``fsdp``, ``zero1``, ``zero2`` or ``zero3``.
        device: ``cpu`` or ``cuda``.
        dtype: Compute dtype.
        trainable_parameters: Values that train.
        base_parameters: Values of the base, as before quantization.
        ranks: Bytes of each rank.
    """

    strategy: str
    device: str
    dtype: str
    trainable_parameters: int
    base_parameters: int
    ranks: tuple[RankBytes, ...]

    @property
    def peak_bytes(self) -> int:
        """Peak of the rank that holds most."""
        return max(rank.peak_bytes for rank in self.ranks)

    def fits(self, device_bytes: int) -> bool:
        """Whether every rank's peak is at most what one device has.

        Args:
            device_bytes: Free memory of one device. A CUDA context takes about half a GB of a GPU, and the allocator
                leaves gaps; neither is counted.
        """
        return self.peak_bytes <= device_bytes

    def to_json(self) -> dict[str, Any]:
        """The estimate as plain values."""
        return asdict(self) | {"ranks": [rank.to_json() for rank in self.ranks], "peak_bytes": self.peak_bytes}


def estimate(spec: RunSpec, config: PretrainedConfig, device: str | None = None) -> Estimate:
    """Predict a run.

    Args:
        spec: The run.
        config: Of the base.
        device: ``cpu`` or ``cuda``; as in `device_of` where absent.

    Raises:
        ModelError: The targets match nothing, or the model's forward pass cannot be followed without data.
    """
    return estimate_pack([spec], config, device)


def estimate_pack(specs: Sequence[RunSpec], config: PretrainedConfig, device: str | None = None) -> Estimate:
    """Predict a rank that runs several slots over one base, the rows of all of them at once.

    Args:
        specs: The runs of the slots that each rank holds, at least one; they share a pack key.
        config: Of the base.
        device: ``cpu`` or ``cuda``; as in `device_of` where absent.

    Raises:
        ModelError: As in `estimate`; or the base takes the rows of one slot only.
    """
    spec = specs[0]
    place, world_size = spec.distributed, spec.distributed.num_workers
    device = device or device_of(place)
    dtype, kind = dtype_on(spec, device), strategy_kind(place)
    with torch.random.fork_rng(devices=[]):
        model = base_on_meta(config, spec, dtype)
        unreached = None if spec.trains_base else warning_of_unreached(model)
        if unreached:
            log.warning("%s", unreached)
        stored = list(stored_parameters(model))
        bank = make_bank(model, spec, ("", None), META)
        for slot, of_slot in enumerate(specs):
            bank.admit(slot, slot_of(of_slot), match_targets(model, of_slot))
    parts = by_block(model, stored)
    whole = gathered(kind, world_size, parts[0], sum(parts[1]), max(parts[1], default=0))
    projected = projected_names(model, spec) if spec.optimizer == "galore_adamw" else []
    slots = range(len(specs))
    num_values = [sum(parameter.numel() for parameter in bank.parameters(slot).values()) for slot in slots]
    beside_bytes = sum({id(tensor): tensor.nbytes for slot in slots for tensor in bank.frozen(slot)}.values())  # shared
    adapters = [without_head(bank.parameters(slot)) for slot in slots]
    of_adapters = [sum(parameter.numel() for parameter in each.values()) for each in adapters]
    num_judged = [number for of_slot, number in zip(specs, of_adapters, strict=True) if of_slot.adapter == "adalora"]
    beside_bytes += 8 * sum(num_judged)  # two means of each value's importance
    length = row_tokens(spec, config)
    starts = [_start_bytes(bank.parameters(slot), of_slot, length) for slot, of_slot in enumerate(specs)]
    if spec.trains_base:
        trained = [trained_base(spec, kind, device, rank, stored, parts, projected) for rank in range(world_size)]
    else:
        trained = [trained_adapters(specs, kind, device, num_values, beside_bytes)] * world_size
    step = dry_run(model, bank, specs)
    looking = max(starts) and max(starts) + step.looking_bytes
    between = max(step.penalty_bytes, 4 * max(num_judged, default=0), looking)
    ranks = tuple(
        _rank(spec, device, kind, rank, stored, trained[rank], whole, step, between) for rank in range(world_size)
    )
    base_parameters = sum(parameter.num_parameters for parameter in stored)
    name = str(dtype).removeprefix("torch.")
    return Estimate(kind, device, name, sum(num_values), base_parameters, ranks)


def device_of(place: DistributedSpec) -> str:
    """``cuda`` if the spec asks for a GPU, or names none and there is one; else ``cpu``."""
    wants_gpu = torch.cuda.is_available() if place.gpus_per_worker is None else place.gpus_per_worker == 1
    return "cuda" if wants_gpu else "cpu"


def _start_bytes(parameters: Mapping[str, Tensor], spec: RunSpec, num_tokens: int) -> int:
    """What the start of a slot takes for itself, before its first step, with rows of so many tokens."""
    if spec.init_lora_weights != "eva":
        return 0
    matrices = [parameter for name, parameter in parameters.items() if name.endswith(A)]
    return start_bytes(matrices, spec.micro_batch_size * num_tokens)


def _rank(
    spec: RunSpec,
    device: str,
    kind: StrategyKind,
    rank: int,
    stored: list[StoredParameter],
    trained: Trained,
    whole: Gathered,
    step: StepBytes,
    between: int,
) -> RankBytes:
    base_bytes = scales_bytes = 0
    for parameter in stored:
        part = piece(kind, parameter.shape, rank, spec.distributed.num_workers)
        base_bytes += part.num_stored * parameter.itemsize
        scales_start = max(part.start * parameter.itemsize, parameter.scales_start)
        scales_bytes += max(0, part.stop * parameter.itemsize - scales_start)
    made, optimizer_bytes = trained.gradients, trained.optimizer_bytes
    host_bytes = 0
    if device == "cuda":
        offloaded = base_bytes if spec.shards_base else optimizer_bytes
        host_bytes += offloaded if spec.distributed.cpu_offload else 0
        host_bytes += optimizer_bytes if spec.optimizer.startswith("paged") else 0
    resident = base_bytes + trained.adapters_bytes + made.resident_bytes + optimizer_bytes - host_bytes
    transient = max(
        whole.start_bytes,
        step.forward_bytes + whole.forward_bytes + made.held_bytes,
        step.loss_bytes + whole.loss_bytes + made.held_bytes,
        step.backward_bytes + whole.backward_bytes + made.backward_bytes,
        made.reduced_bytes,
        trained.update_bytes,
    )
    return RankBytes(
        base_bytes=base_bytes,
        quant_state_bytes=scales_bytes,
        adapters_bytes=trained.adapters_bytes,
        gradients_bytes=max(asdict(made).values()),
        optimizer_bytes=optimizer_bytes,
        activations_bytes=max(step.forward_bytes, step.backward_bytes),
        logits_bytes=step.logits_bytes,
        gathered_bytes=max(asdict(whole).values()),
        host_bytes=host_bytes,
        step_peak_bytes=resident + transient,
        between_peak_bytes=resident + between,
    )


def dtype_on(spec: RunSpec, device: str) -> torch.dtype:
    """The compute dtype of a run on a device that may be elsewhere.

    Args:
        spec: The run.
        device: ``cpu`` or ``cuda``.
    """
    if device == "cuda" and spec.dtype == "auto" and not torch.cuda.is_available():
        return torch.bfloat16  # the GPU is elsewhere; those of the last years have the units
    return compute_dtype(spec, device)
