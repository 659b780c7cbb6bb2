"""From a spec and a folder to something that can step: base loaded and placed, adapters attached where there are any.

Called on every rank by the runtime's worker, and alone by tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.log import get_logger
from raylora.model.adapter.bank import AdapterBank
from raylora.model.bank.full import FullBank, Placed
from raylora.model.bank.packed import PackedBank
from raylora.model.base.base_weights import BaseWeights
from raylora.model.base.dtype import compute_dtype
from raylora.model.base.load import base_on_meta, load_base
from raylora.model.base.meta import read_config
from raylora.model.base.unreached import warning_of_unreached
from raylora.model.rows.bins import why_not_binned
from raylora.model.rows.row_attention import attend_by_rows
from raylora.objectives.choose import readout_of
from raylora.spec.run import RunSpec
from raylora.strategy.choose import choose_strategy
from raylora.strategy.contract import Strategy
from raylora.train.ranks import Ranks
from raylora.train.trainee import Trainee

log = get_logger(__name__)
Report = Callable[[str, float], None]
"""Takes the name of a part of the start and its seconds."""

LOW_PRECISION = (
    "adapter: full keeps weights and moments in %s alone: an update below a 256th of a weight is rounded off. Set "
    "dtype: float32 where memory allows, or distributed.strategy: deepspeed with zero_stage 1 or 2, which steps a copy "
    "in float32; or train an adapter, which is always in float32"
)


def build(
    spec: RunSpec,
    folder: Path,
    base_name: tuple[str, str | None],
    device: torch.device,
    report: Report = lambda name, seconds: None,
) -> Trainee:
    """Load and place the base of one run, with its adapter in slot 0; errors as in `place_base`.

    Args:
        spec: The run.
        folder: The base as a local folder.
        base_name: Its logical name and revision.
        device: This rank's device.
        report: Told how long each part took.
    """
    trainee = place_base(spec, folder, base_name, device, report)
    trainee.admit(0, spec)
    return trainee


def place_base(
    spec: RunSpec,
    folder: Path,
    base_name: tuple[str, str | None],
    device: torch.device,
    report: Report = lambda name, seconds: None,
    slots_stay_on_ranks: bool = False,
) -> Trainee:
    """Load the base and place it on the ranks of the default process group, without an adapter.

    Args:
        spec: The run, or of a pack any of its runs.
        folder: The base as a local folder.
        base_name: Its logical name and revision.
        device: This rank's device.
        report: Told how long each part took.
        slots_stay_on_ranks: Each rank trains slots of its own, instead of its part of every slot's rows.

    Raises:
        ModelError: The folder is no base of this kind, the adapter does not fit it, or a strategy that shards left too
            much of the base on a rank.
    """
    ranks = Ranks.current()
    dtype = compute_dtype(spec, device.type)
    if ranks.rank == 0 and spec.dtype == "auto" and dtype is torch.float32:
        log.info("dtype: float32, because this %s has no bfloat16 units", device.type)
    if ranks.rank == 0 and steps_in_low_precision(spec, dtype):
        log.warning(LOW_PRECISION, dtype)
    with _timed("describe", report):
        model = base_on_meta(read_config(folder), spec, dtype)
        # Now: a strategy that shards gives modules classes of its own.
        unbinned = why_not_binned(model, spec.sequence_len)
        why_padded = attend_by_rows(model, spec.sequence_len)
        unreached = None if spec.trains_base else warning_of_unreached(model)
        if ranks.rank == 0 and unreached:
            log.warning("%s", unreached)
        strategy = choose_strategy(spec, device)
        weights = BaseWeights(model, folder, device, strategy.shards_base)
        bank = make_bank(model, spec, base_name, device, weights, strategy, keeps=ranks.rank == 0)
    readout = readout_of(spec, model)
    for name, seconds in load_base(model, folder, device, lambda part: _place(strategy, part, model)).items():
        report(name, seconds)
    recompute_activations(model, spec)
    if slots_stay_on_ranks and strategy.shards_base:
        # A rank without rows still gathers its part of a backward pass, and a pass with nothing to train has none.
        model.enable_input_require_grads()
    slot_ranks = Ranks() if slots_stay_on_ranks else ranks
    trainee = Trainee(spec, model, bank, strategy, readout, device, ranks, slot_ranks, why_padded, unbinned)
    _check_share(trainee)
    return trainee


def steps_in_low_precision(spec: RunSpec, dtype: torch.dtype) -> bool:
    """Whether a run's updates are rounded to 16 bits one by one: DeepSpeed's engine steps a copy in float32.

    Args:
        spec: The run.
        dtype: In which it computes.
    """
    return spec.trains_base and dtype is not torch.float32 and spec.distributed.strategy != "deepspeed"


def recompute_activations(model: PreTrainedModel, spec: RunSpec) -> None:
    """Where the spec asks for it, let each block keep its input alone and run again in the backward pass.

    Args:
        model: The base, adapters attached.
        spec: `gradient_checkpointing` counts.
    """
    if spec.gradient_checkpointing:
        # Renamed within transformers 5; the older name warns where the newer one is there.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})


def make_bank(
    model: PreTrainedModel,
    spec: RunSpec,
    base_name: tuple[str, str | None],
    device: torch.device,
    weights: BaseWeights | None = None,
    placed: Placed | None = None,
    keeps: bool = True,
) -> AdapterBank:
    """The bank that the spec asks for, on a base on the meta device; slots are still to be admitted.

    Args:
        model: The base; changed in place as slots are admitted.
        spec: `adapter`, `adapter_bank` and `peft` count.
        base_name: Logical name and revision of the base.
        device: Where the adapters' parameters live.
        weights: Reads whole weights of the placed base, for adapters that start from them.
        placed: What places the base, for one that trains itself; as of `FullBank`.
        keeps: As of `FullBank`.
    """
    if spec.trains_base:
        return FullBank(model, weights, placed, keeps)
    if spec.bank == "packed":
        return PackedBank(model, base_name, device, weights, spec.task_type)
    from raylora.model.bank.peft import PeftBank  # seconds of import that only this bank needs

    return PeftBank(model, base_name, device, weights)


def _check_share(trainee: Trainee) -> None:
    """A sharded base must weigh about 1/world_size on each rank."""
    held = trainee.base_bytes_per_rank
    strategy, world_size = trainee.strategy, trainee.ranks.world_size
    if strategy.shards_base and world_size > 1:
        whole = sum(strategy.whole_bytes(parameter) for parameter in trainee.base)
        allowed = whole / world_size * 1.05 + 2**20
        if max(held) > allowed:
            raise ModelError(
                f"distributed.strategy: {strategy.name} left {max(held)} bytes of the base on a rank, allowed are "
                f"{allowed:.0f} of {whole}; report this model's config.json as a bug and use strategy: ddp"
            )


def _place(strategy: Strategy, part: nn.Module, model: PreTrainedModel) -> None:
    if part is model:
        strategy.place_root(model)
    else:
        strategy.place_block(part)


@contextmanager
def _timed(name: str, report: Report) -> Iterator[None]:
    start = perf_counter()
    yield
    report(name, perf_counter() - start)
