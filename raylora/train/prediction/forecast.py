"""How long a step of a pack takes, predicted from one block: made alone with random weights, run, multiplied.

A run and its base's config enter; seconds leave, for this machine's processor. Neither weights nor rows are read. The
block is the model's own, with the frozen layers, adapters and attention of training in it, so that products, unpacking
and the time that Python takes for each layer and slot are all in the measurement. Called by the sweep's planner.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PretrainedConfig, PreTrainedModel

from raylora.data.flat import FlatBatch
from raylora.errors import ModelError
from raylora.model.adapter.adalora import VALUES
from raylora.model.adapter.slot import slot_of
from raylora.model.bank.packed import PackedBank
from raylora.model.base.dtype import compute_dtype
from raylora.model.base.frozen_linear import QuantLinear
from raylora.model.base.load import base_on_meta, blocks
from raylora.model.rows.route import Span
from raylora.model.rows.row_attention import attend_by_rows
from raylora.model.targets import adapter_values, match_targets
from raylora.objectives.linear_cross_entropy import linear_cross_entropy
from raylora.spec.run import RunSpec
from raylora.spec.value_shape import row_tokens, value_shape
from raylora.strategy.flat import FlatStepper
from raylora.train.admission import soon_started
from raylora.train.allocation import Allocation
from raylora.train.build import steps_in_low_precision
from raylora.train.optim import AdamWFactory, rates_of

MIN_S, MIN_RUNS = 0.15, 2
"""How long each part is timed, and how often at least, after one run that does not count."""

MOST_VALUES = 2**24
"""Values whose update is timed, by AdamW of torch or bitsandbytes; of more, all take as long in proportion."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one pass of all slots, and of what follows it.

    Args:
        forward_s: Forward pass.
        backward_s: Backward pass.
        update_s: Updates of all slots.
    """

    forward_s: float
    backward_s: float
    update_s: float

    @property
    def pass_s(self) -> float:
        """Forward and backward."""
        return self.forward_s + self.backward_s


def forecast(
    spec: RunSpec, config: PretrainedConfig, num_slots: int, num_tokens: int, device: torch.device
) -> StepTime:
    """Predict one pass of a worker's slots.

    Args:
        spec: The run in every slot.
        config: Of the base.
        num_slots: Slots of the worker; one where the base does not attend by rows.
        num_tokens: Tokens of one row, at least 1.
        device: Where to time.

    Raises:
        ModelError: The base is none, the targets match nothing, the base has no block that runs alone or two
            sides, or the adapter is PEFT's own.
    """
    if spec.has_two_sides:
        raise ModelError("task_type: blocks of encoder and decoder take unlike times. Time a run with max_steps: 2")
    if spec.peft is not None:
        raise ModelError("peft: a block is timed with raylora's own adapters only. Time a run with max_steps: 2")
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(spec.distributed.cpus_per_worker)))  # a worker's
    try:
        with torch.random.fork_rng(devices=[]):
            model = base_on_meta(config, spec, compute_dtype(spec, device.type))
            num_tokens = row_tokens(spec, config) if spec.reads_values else num_tokens
            lengths = (num_tokens,) * (spec.micro_batch_size * num_slots)
            forward_s, backward_s = _time_blocks(model, spec, num_slots, lengths, device)
            head_s = _time_head(model, sum(lengths), device, spec.trains_base)
            if spec.gradient_checkpointing:
                backward_s += forward_s
            return StepTime(
                forward_s + head_s / 2, backward_s + head_s / 2, _time_update(model, spec, num_slots, device)
            )
    finally:
        torch.set_num_threads(before)


class _Reached(Exception):
    """The block was called; what with."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.args_of_block, self.kwargs_of_block = args, kwargs


def _time_blocks(
    model: PreTrainedModel, spec: RunSpec, num_slots: int, lengths: tuple[int, ...], device: torch.device
) -> tuple[float, float]:
    """Seconds of all blocks, forward and backward."""
    model.to(torch.device("meta"))  # type: ignore[arg-type]
    names = _alike(blocks(model))
    if not names:
        raise _no_block(model)
    block = model.get_submodule(names[0])
    args, kwargs = _called_with(model, spec, block, lengths)
    _make_real(block, device)
    if not spec.trains_base:
        _attach(model, spec, num_slots, lengths, names[0], device)
    block.train()

    args, kwargs = tree_map(lambda value: _real(value, model, device), (args, kwargs))
    grads: list[Tensor] = []

    def forward() -> Tensor:
        made = block(*args, **kwargs)
        return made if isinstance(made, Tensor) else made[0]

    def both() -> None:
        output = forward()
        if not grads:
            grads.append(torch.ones_like(output))
        output.backward(grads[0])

    forward_s = _timed(forward, device)
    return len(names) * forward_s, len(names) * max(0.0, _timed(both, device) - forward_s)


def _alike(found: Mapping[str, nn.Module]) -> list[str]:
    """Names of the blocks of the class that most of them have: encoders count their embeddings among the blocks."""
    classes = Counter(type(block) for block in found.values())
    most = next((kind for kind, _ in classes.most_common(1)), None)
    return [name for name, block in found.items() if type(block) is most]


def _attach(
    model: PreTrainedModel, spec: RunSpec, num_slots: int, lengths: tuple[int, ...], block: str, device: torch.device
) -> None:
    """Give a block the adapters of all slots, and each of them its part of the rows."""
    bank = PackedBank(model, ("", None), device)
    targets = [name for name in match_targets(model, spec) if name.startswith(f"{block}.")]
    for slot in range(num_slots):
        bank.admit(slot, slot_of(soon_started(spec)), targets)
    rows = tuple(enumerate(lengths[: len(lengths) // num_slots]))
    num_tokens = sum(lengths) // num_slots
    bank.route([Span(slot, num_tokens, rows=rows) for slot in range(num_slots)])


def _called_with(
    model: PreTrainedModel, spec: RunSpec, block: nn.Module, lengths: tuple[int, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a pass over rows of these lengths gives the block, on the meta device."""
    inputs = _inputs(model, spec, lengths)

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _Reached as reached:
        return reached.args_of_block, reached.kwargs_of_block
    finally:
        handle.remove()
    raise _no_block(model)


def _inputs(model: PreTrainedModel, spec: RunSpec, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of the model for rows of these lengths, on the meta device."""
    if (values := value_shape(spec.task_type, model.config)) is not None:
        return {model.main_input_name: torch.empty(len(lengths), *values.size, dtype=model.dtype, device="meta")}
    by_rows = attend_by_rows(model, max(lengths)) is None
    shape = (1, sum(lengths)) if by_rows else (len(lengths), lengths[0])
    ids_BT = torch.empty(shape, dtype=torch.int64, device="meta")
    return FlatBatch(ids_BT, ids_BT, ids_BT, lengths).inputs if by_rows else {"input_ids": ids_BT}


def _no_block(model: PreTrainedModel) -> ModelError:
    return ModelError(
        f"base_model: {type(model).__name__} has no repeated block that runs alone, so its step cannot be timed in "
        "advance. Time a run with max_steps: 2"
    )


def _real(value: Any, model: PreTrainedModel, device: torch.device) -> Any:
    """The like of an argument on a device; hidden states take a gradient, as between two blocks."""
    if not isinstance(value, Tensor):
        return value
    made = torch.zeros(value.shape, dtype=value.dtype, device=device)
    is_hidden = value.shape[-1] == model.config.get_text_config().hidden_size and value.is_floating_point()
    return made.normal_().requires_grad_() if is_hidden else made


def _make_real(block: nn.Module, device: torch.device) -> None:
    """Give a block on the meta device weights: random ones, small enough that nothing overflows."""
    for module in block.modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(module, QuantLinear) and leaf == "packed":
                value = module.format.pack(0.02 * torch.randn(module.shape, dtype=module.compute_dtype, device=device))
            else:
                value = 0.02 * torch.randn(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, leaf, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, leaf, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))


def _time_head(model: PreTrainedModel, num_tokens: int, device: torch.device, trains: bool) -> float:
    """Seconds of head and loss; the gradient of a head that does not train is computed beside it."""
    head: Any = model.get_output_embeddings()
    if head is None:  # one of a few classes, for which no time needs to be reckoned
        return 0.0
    num_rows = min(num_tokens, 256)  # chunks are all alike
    hidden_NH = torch.randn(num_rows, head.in_features, dtype=model.dtype, device=device, requires_grad=True)
    weight_VH = 0.02 * torch.randn(head.out_features, head.in_features, dtype=model.dtype, device=device)
    targets_N = torch.zeros(num_rows, dtype=torch.int64, device=device)
    weight_VH.requires_grad_(trains)

    def run() -> None:
        losses_N, _ = linear_cross_entropy(hidden_NH, weight_VH, None, targets_N)
        if trains:
            losses_N.sum().backward()

    once_s = _timed(run, device)
    return once_s * num_tokens / num_rows


def _time_update(model: PreTrainedModel, spec: RunSpec, num_slots: int, device: torch.device) -> float:
    """Seconds of the updates of all slots."""
    num_values = adapter_values(model, spec)
    dtype = model.dtype if steps_in_low_precision(spec, model.dtype) else torch.float32
    row = {"row": nn.Parameter(torch.zeros(min(num_values, MOST_VALUES), dtype=dtype, device=device))}
    plain = spec.model_copy(update={"optimizer": "adamw_torch"})  # GaLore decomposes gradients, but seldom
    make = AdamWFactory(plain if spec.optimizer == "galore_adamw" else spec, device)
    stepper = FlatStepper(row, make, spec.max_grad_norm, rates_of(spec, row))
    update_s = num_values / row["row"].numel() * _timed(lambda: stepper.step(0.0), device)
    return num_slots * (update_s + _time_ranks(model, spec, device))


def _time_ranks(model: PreTrainedModel, spec: RunSpec, device: torch.device) -> float:
    """Seconds of what AdaLoRA does beside the rows of a slot: its penalty, and its judgement of the ranks."""
    if spec.adapter != "adalora":
        return 0.0
    parameters: dict[str, nn.Parameter] = {}
    for name in match_targets(model, spec):
        layer: Any = model.get_submodule(name)
        sides = {"lora_A": (spec.lora_r, layer.in_features), "lora_B": (layer.out_features, spec.lora_r)}
        for matrix, shape in (sides | {VALUES: (spec.lora_r, 1)}).items():
            parameter = parameters[f"{name}.{matrix}"] = nn.Parameter(torch.randn(shape, device=device))
            parameter.grad = torch.zeros_like(parameter)
    num_steps = 10 * (1 + (spec.tinit or 0) + (spec.tfinal or 0))  # ranks are taken away half way
    allocation = Allocation(spec, parameters, num_steps)

    def judge() -> None:
        if (penalty := allocation.penalty()) is not None:
            penalty.backward()
        allocation.after_update(num_steps // 2)

    return _timed(judge, device)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some runs: others on this machine only ever slow one down."""
    best_s, start = float("inf"), perf_counter()
    for count in itertools.count():
        begun = perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if count:
            best_s = min(best_s, perf_counter() - begun)
        if count >= MIN_RUNS and perf_counter() - start >= MIN_S:
            return best_s
    raise AssertionError  # endless
