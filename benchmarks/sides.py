"""How each side of a comparison is started."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

from benchmarks.turns import Command, Side, Stage
from benchmarks.workload import Workload

FSDP2 = (
    "--use_fsdp",
    "--fsdp_version=2",
    "--fsdp_reshard_after_forward=true",
    "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap=LlamaDecoderLayer",
    "--fsdp_cpu_ram_efficient_loading=false",
    "--fsdp_offload_params=false",
)
ZERO3 = ("--use_deepspeed", "--zero_stage=3", "--offload_optimizer_device=none", "--offload_param_device=none")


def enter_raylora(
    stage: Stage, work: Workload, folder: Path, name: str = "raylora", module: str = "raylora_side"
) -> Side:
    """Start raylora's training core, one process a rank; ``module`` of this package says what it does."""
    path, port = work.write(folder / f"{name}.json"), _free_port()
    commands = [
        Command(
            ["-m", f"benchmarks.{module}", path],
            work.environment
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(work.num_ranks)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(work.num_ranks)
    ]
    return stage.enter(name, commands, work.num_ranks)


def enter_trl(stage: Stage, work: Workload, folder: Path, name: str, **options: object) -> Side:
    """Start TRL in one process."""
    path = replace(work, options=work.options | options).write(folder / f"{name}.json")
    return stage.enter(name, [Command(["-m", "benchmarks.trl_side", path], work.environment)])


def enter_accelerate(
    stage: Stage, work: Workload, folder: Path, name: str, flags: tuple[str, ...], **options: object
) -> Side:
    """Start TRL under `accelerate launch`."""
    path = replace(work, options=work.options | options).write(folder / f"{name}.json")
    launch = ["-m", "accelerate.commands.launch", *flags]
    launch += [f"--num_processes={work.num_ranks}", "--num_machines=1", f"--main_process_port={_free_port()}"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "-m", "benchmarks.trl_side", path]
    return stage.enter(name, [Command(launch, work.environment)], work.num_ranks)


def enter_gemm(stage: Stage, work: Workload, folder: Path, row_tokens: int) -> Side:
    """Matrix products of the model's shapes for rows of so many tokens, and large square ones."""
    path = replace(work, options={"row_tokens": row_tokens}).write(folder / "gemm.json")
    return stage.enter("gemm", [Command(["-m", "benchmarks.gemm_side", path], work.environment)])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
