"""DeepSpeed ZeRO: stage 3 shards the base, stages 1 and 2 shard the optimizer of what trains.

Source: ZeRO, https://arxiv.org/abs/1910.02054.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raylora.model.base.uncompiled import uncompiled
from raylora.strategy.absent import absent

if not torch.cuda.is_available():  # must be set before deepspeed is imported, which looks for a GPU
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# MLflow is its tuner's, which nobody asks; Muon is asked for in each step, whoever steps, and would be compiled.
with absent("mlflow"), uncompiled():
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)

from raylora.strategy.contract import MASTER, MOMENTS, OptimizerFactory, Stepper
from raylora.strategy.ddp import Ddp
from raylora.strategy.flat import StepsFlat
from raylora.strategy.saved_moments import check_moments
from raylora.strategy.shares import LIVE_BLOCKS, piece


def _connect() -> None:
    # DeepSpeed compiles its shared-memory all-reduce on a CPU at first use: minutes, and a compiler on every worker,
    # for something that inference alone calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)


class Zero3(StepsFlat):
    """ZeRO-3 over the frozen base alone: parameters are gathered for the module that runs.

    Args:
        cpu_offload: Keep the shards in host memory (GPU runs).
    """

    name = "zero3"
    shards_base = True

    def __init__(self, cpu_offload: bool = False) -> None:
        _connect()
        self._zero: dict[str, Any] = {"stage": 3, "stage3_param_persistence_threshold": 0}
        if cpu_offload:
            self._zero["offload_param"] = {"device": "cpu", "pin_memory": True}
        self._block_values = 0

    def place_block(self, block: nn.Module) -> None:
        """Partition a block's parameters; the full ones are dropped at once."""
        self._block_values = max(self._block_values, sum(parameter.numel() for parameter in block.parameters()))
        _Partition(module=block, config_dict_or_path=_config(self._zero))

    def place_root(self, model: nn.Module) -> None:
        """Partition the rest and install the gathering hooks; the model itself is called afterwards."""
        # DeepSpeed's defaults keep a billion values gathered, which is the whole of many a base.
        limits = {
            "stage3_max_live_parameters": LIVE_BLOCKS * self._block_values,
            # Of what was used only what the very next layer uses again is kept: the head, whose backward pass follows.
            "stage3_max_reuse_distance": 1,
            # One parameter ahead at each module, until the limit: gathered together they would be there twice.
            "stage3_prefetch_bucket_size": 1,
        }
        self._engine, *_ = deepspeed.initialize(model=model, config=_config(self._zero | limits))
        # A module whose inputs take no gradient gets no hook that drops what its backward gathered. Let the
        # first block's inputs take one; after initialize, so that the embedding itself stays out of the backward.
        model.enable_input_require_grads()  # type: ignore[operator]

    def rest(self, model: nn.Module) -> None:
        """Drop what was kept and gathered ahead for a backward pass."""
        # The engine's own does this and looks through all of Python for garbage, for up to a second at each pass.
        self._engine.optimizer.empty_partition_cache()

    def held_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of this rank's partition, and of the whole where it is still gathered."""
        part = self.local(parameter)
        return (part.numel() + parameter.data.numel()) * part.element_size()

    def whole_bytes(self, parameter: nn.Parameter) -> int:
        """Bytes of all partitions, without padding."""
        return int(parameter.ds_numel) * parameter.element_size()  # type: ignore[attr-defined]

    def local(self, parameter: nn.Parameter) -> Tensor:
        """This rank's partition."""
        part: Tensor = parameter.ds_tensor.data  # type: ignore[attr-defined]
        return part

    def full(self, parameter: nn.Parameter) -> Tensor:
        """All partitions joined."""
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.data.clone()

    def fill(self, parameter: nn.Parameter, whole: Tensor) -> None:
        """Copy this rank's partition of it.

        Args:
            parameter: A placed one.
            whole: Of its whole shape; another dtype is converted.
        """
        mine = piece("zero3", whole.shape, dist.get_rank(), dist.get_world_size())
        self.local(parameter)[: mine.stop - mine.start].copy_(whole.reshape(-1)[mine.start : mine.stop])


def _config(zero: Mapping[str, Any]) -> dict[str, Any]:
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": dict(zero)}


class _Partition(deepspeed.zero.Init):  # type: ignore[misc]
    """Partitions parameters without sending rank 0's to all: every rank has read the same file.

    The broadcast would take longer than the reading, and turn weights that are mapped from the file into memory.
    """

    def _zero_init_param(self, param: nn.Parameter) -> None:
        self._convert_to_deepspeed_param(param)
        param.partition()  # type: ignore[attr-defined]


class ZeroOptimizer(Ddp):
    """ZeRO-1 and ZeRO-2: the base replicated, the adapters, or a base that trains, stepped by DeepSpeed's engine.

    Args:
        stage: 1 shards the optimizer's state, 2 the gradients too.
        cpu_offload: Keep the optimizer's state in host memory (GPU runs).
        trains_base: Whether what is stepped is the base itself, the same parameters run after run.
    """

    def __init__(self, stage: int, cpu_offload: bool = False, trains_base: bool = False) -> None:
        _connect()
        self.name = f"zero{stage}"
        self._zero: dict[str, Any] = {"stage": stage}
        if cpu_offload:
            self._zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        self._trains_base = trains_base
        self._before: EngineStepper | None = None

    def stepper(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        rates: Mapping[str, float],
    ) -> Stepper:
        """DeepSpeed's engine over what trains alone; the spec's rules leave one rate to these stages."""
        if self._before is not None:
            self._before.let_go()
        stepper = EngineStepper(adapters, make, max_grad_norm, self._zero)
        self._before = stepper if self._trains_base else None
        return stepper


class EngineStepper:
    """Steps parameters through DeepSpeed's engine, which shards the optimizer's state."""

    def __init__(
        self,
        adapters: Mapping[str, nn.Parameter],
        make: OptimizerFactory,
        max_grad_norm: float,
        zero: Mapping[str, Any],
    ) -> None:
        self._adapters = dict(adapters)
        parameters = list(self._adapters.values())
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": max_grad_norm,
            "managed_gradient_accumulation": False,  # every step() ends an accumulation, however many backwards
            "zero_allow_untested_optimizer": True,
            # An offloaded state is stepped by torch's AdamW on the CPU; DeepSpeed's own is compiled on every node.
            "zero_force_ds_cpu_optimizer": False,
            # DeepSpeed's default would set two gigabytes aside for gradients, whatever their number.
            "zero_optimization": {**zero, "reduce_bucket_size": sum(p.numel() for p in parameters)},
            "bf16": {"enabled": parameters[0].dtype is torch.bfloat16},  # adapters are in float32
        }
        holder = nn.ParameterList(parameters)
        self._engine, zero_optimizer, *_ = deepspeed.initialize(
            model=holder, optimizer=make([{"params": parameters}]), config=config
        )
        self._zero_optimizer, self._optimizer = zero_optimizer, zero_optimizer.optimizer
        (self._row,) = zero_optimizer.single_partition_of_fp32_groups

    def let_go(self) -> None:
        """Take the engine's hooks off the parameters, which another one is to step."""
        self._engine.destroy()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; the engine averages over ranks, so scale the mean back to a sum."""
        self._engine.backward(loss * dist.get_world_size())

    @property
    def unsummed(self) -> None:
        """The engine sums over ranks."""

    def step(self, learning_rate: float, updated: Callable[[], None] | None = None) -> float:
        """Let the engine reduce, clip and update; it updates nothing where the norm is not finite.

        Args:
            learning_rate: Of this step.
            updated: None: the engine leaves nobody its gradient, and the spec's rules what asks for it to others.
        """
        assert updated is None
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def forget(self) -> None:
        """Let the engine see a gradient that is not finite: it clears it and updates nothing."""
        self._engine.step()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The count of steps, the moments, of 16-bit weights the float32 ones; none before the first step.

        They are gathered one by one: together they would take more of every device than a step does.
        """
        if not (held := self._optimizer.state.get(self._row)):
            return
        yield "step", held["step"]
        for name, parameter in self._adapters.items():
            yield from ((f"{moment}.{name}", safe_get_full_optimizer_state(parameter, moment)) for moment in MOMENTS)
            if parameter.dtype is not torch.float32:
                yield f"{MASTER}.{name}", safe_get_full_fp32_param(parameter)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Scatter what was saved; of what no float32 values were, the engine copies the parameters as they are now.

        Raises:
            StoreError: The moments are of another kind of optimizer.
        """
        check_moments(state)
        self._zero_optimizer.refresh_fp32_params()
        if not state:
            self._optimizer.state.clear()
            return
        moments = {moment: torch.zeros_like(self._row) for moment in MOMENTS}
        self._optimizer.state[self._row] = {"step": state["step"].to(self._row.device, copy=True), **moments}
        lazy_init_hp_params_optimizer_state(self._adapters.values(), self._row, self._optimizer.state)
        for name, parameter in self._adapters.items():
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, state[f"{moment}.{name}"].to(self._row.device), moment)
            if (master := state.get(f"{MASTER}.{name}")) is not None:
                safe_set_full_fp32_param(parameter, master.to(self._row.device))
