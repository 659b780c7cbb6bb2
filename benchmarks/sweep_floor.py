"""The least time of a sweep beyond one start-up: its floating-point operations at the rate of known kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.flops import step_flops
from benchmarks.raylora_side import CPU
from benchmarks.rows import Material
from benchmarks.sides import enter_gemm
from benchmarks.sweep_rows import step_batches
from benchmarks.turns import Stage
from benchmarks.workload import LEARNING_RATE, Workload
from raylora.spec.run import RunSpec
from raylora.train.build import place_base
from raylora.train.step import Share

PASS_TOKENS = 512
"""Rows of the products whose rate is taken: a pass of a pack, where products are at their best."""


def floor(
    material: Material, run: Mapping[str, Any], num_threads: int, space: Mapping[str, Sequence[Any]], num_steps: int
) -> dict[str, Any]:
    """Count the operations of all trials, and measure the rate.

    Args:
        material: What is trained on what.
        run: Fields of the trials' run.
        num_threads: Of the products.
        space: Values of each knob; of these the rank alone changes what is counted.
        num_steps: Of a trial.

    Returns:
        The operations, and by kernel its rate and the seconds at that rate.
    """
    num_of_each_rank = len(space["learning_rate"])
    spec = RunSpec.model_validate(dict(run))
    trainee = place_base(spec, material.base, ("base", None), CPU)
    batches = step_batches(run, material.base, num_steps)
    flops = 0
    for slot, rank in enumerate(space["lora_r"]):
        trainee.admit(slot, spec.model_copy(update={"lora_r": rank}))
        shares = [Share(slot, step, LEARNING_RATE, of_step) for step, of_step in enumerate(batches)]
        flops += num_of_each_rank * sum(step_flops(trainee, [share]) for share in shares)
    work = Workload(str(material.base), "", micro_batch_rows=1, num_threads=num_threads)
    with Stage() as stage:
        told = enter_gemm(stage, work, material.folder, PASS_TOKENS).turn()[0]["flops_per_s"]
    rates = {kernel: shapes["model_shapes"] for kernel, shapes in told.items()}
    return {
        "flops": flops,
        "flops_per_s": rates,
        "products_s": {kernel: flops / rate for kernel, rate in rates.items()},
    }
