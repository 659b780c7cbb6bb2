"""From a spec and a folder to something that can step: base loaded and placed, adapters attached.

Called on every rank by the runtime's worker, and alone by tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter

import torch
from torch import nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.log import get_logger
from raylora.model.bank import AdapterBank
from raylora.model.dtype import compute_dtype
from raylora.model.load import base_on_meta, load_base
from raylora.model.low_rank import Slot
from raylora.model.meta import read_config
from raylora.model.packed_bank import PackedBank
from raylora.model.targets import match_targets
from raylora.model.unreached import warning_of_unreached
from raylora.objectives.sft import SupervisedLoss
from raylora.spec.run import RunSpec
from raylora.strategy.choose import choose_strategy
from raylora.strategy.contract import Stepper, Strategy
from raylora.train.optim import AdamWFactory
from raylora.train.ranks import Ranks

log = get_logger(__name__)
Report = Callable[[str, float], None]
"""Takes the name of a part of the start and its seconds."""


@dataclass(frozen=True)
class Trainee:
    """What is trained on one rank."""

    spec: RunSpec
    model: PreTrainedModel
    bank: AdapterBank
    strategy: Strategy
    stepper: Stepper
    loss: SupervisedLoss
    device: torch.device
    ranks: Ranks

    @property
    def frozen(self) -> list[nn.Parameter]:
        """The base's parameters."""
        return [parameter for parameter in self.model.parameters() if not parameter.requires_grad]

    @property
    def held_base_bytes(self) -> int:
        """Bytes of the base that this rank holds between steps."""
        return sum(self.strategy.held_bytes(parameter) for parameter in self.frozen)

    @cached_property
    def base_bytes_per_rank(self) -> list[int]:
        """`held_base_bytes` of every rank as `build` found them."""
        return self.ranks.gather(self.held_base_bytes)

    def train_mode(self, training: bool) -> None:
        """Switch dropout, and with it gradient checkpointing, on or off."""
        self.model.train(training)
        self.bank.train(training)


def build(
    spec: RunSpec,
    folder: Path,
    base_name: tuple[str, str | None],
    device: torch.device,
    report: Report = lambda name, seconds: None,
) -> Trainee:
    """Load the base, attach the adapter, place the base on the ranks of the default process group.

    Args:
        spec: The run.
        folder: The base as a local folder.
        base_name: Its logical name and revision.
        device: This rank's device.
        report: Told how long each part took.

    Raises:
        ModelError: The folder is no base of this kind, the adapter does not fit it, or a strategy that shards left too
            much of the base on a rank.
    """
    ranks = Ranks.current()
    dtype = compute_dtype(spec, device.type)
    if ranks.rank == 0 and spec.dtype == "auto" and dtype is torch.float32:
        log.info("dtype: float32, because this %s has no bfloat16 units", device.type)
    with _timed("describe", report):
        model = base_on_meta(read_config(folder), spec, dtype)
        unreached = warning_of_unreached(model)
        if ranks.rank == 0 and unreached:
            log.warning("%s", unreached)
        bank = make_bank(model, spec, base_name, device)
        strategy = choose_strategy(spec, device)
    with _timed("load, quantize and place", report):
        loss = SupervisedLoss(model)
        load_base(model, folder, device, lambda part: _place(strategy, part, model))
        recompute_activations(model, spec)
        stepper = strategy.stepper(bank.parameters(), AdamWFactory(spec, device), spec.max_grad_norm)
    trainee = Trainee(spec, model, bank, strategy, stepper, loss, device, ranks)
    _check_share(trainee)
    return trainee


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
    model: PreTrainedModel, spec: RunSpec, base_name: tuple[str, str | None], device: torch.device
) -> AdapterBank:
    """Attach the adapter that the spec asks for to a base on the meta device.

    Args:
        model: The base.
        spec: The run.
        base_name: Logical name and revision of the base, for exports.
        device: Where the adapter is made.
    """
    targets = match_targets(model, spec)
    slot = Slot(spec.lora_r, spec.lora_alpha, spec.lora_dropout, spec.seed)
    if spec.adapter_bank == "packed":
        return PackedBank(model, targets, [slot], base_name, device)
    from raylora.model.peft_bank import PeftBank  # seconds of import that only this bank needs

    return PeftBank(model, targets, slot, base_name, device)


def _check_share(trainee: Trainee) -> None:
    """A sharded base must weigh about 1/world_size on each rank."""
    held = trainee.base_bytes_per_rank
    strategy, world_size = trainee.strategy, trainee.ranks.world_size
    if strategy.shards_base and world_size > 1:
        whole = sum(strategy.whole_bytes(parameter) for parameter in trainee.frozen)
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
