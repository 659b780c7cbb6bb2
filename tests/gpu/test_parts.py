"""What the scripts for a GPU are made of, on a CPU: the same weights and losses, other kernels' products, floors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.fused_product import chosen_by_rows, product_of_row
from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.packing import admit_all
from benchmarks.gpu.peft_side import PeftSide, Way
from benchmarks.gpu.random_base import inner_size, llama_config, random_model, random_trainee
from benchmarks.gpu.roofline import TRIPS, step_bytes
from benchmarks.gpu.setting import Setting
from raylora.model.base.frozen_linear import QuantLinear
from raylora.spec.run import RunSpec
from tests.arch.interpreter import loaded_after
from tests.arch.source_tree import REPOSITORY, module_paths
from tests.gpu.packed_layer import packed_layer

CPU = torch.device("cpu")
SETTING = Setting(CPU, hidden=128, layers=2, turns=1)
ASKED_FOR = ("torch", "transformers", "peft", "bitsandbytes", "pydantic", "pyarrow")
"""What the guide installs."""


def spec_of(bits: int) -> RunSpec:
    return run_spec(Setting(CPU, 128, 2, turns=1, bits=bits), 2, 16, dtype="float32")


def with_what_they_need(names: Iterable[str]) -> set[str]:
    """Distributions that pip installs for these."""
    found: set[str] = set()
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needed = [Requirement(line) for line in requires(name) or ()]
            left += [
                canonicalize_name(each.name)
                for each in needed
                if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return found


@pytest.mark.slow
def test_the_scripts_need_what_the_guide_installs_alone():
    there = with_what_they_need(ASKED_FOR) | {"raylora"}
    absent = [top for top, names in packages_distributions().items() if not there & {*map(canonicalize_name, names)}]
    assert {"ray", "mlflow", "deepspeed", "datasets", "s3fs"} <= {*absent}
    elsewhere = {"gpu.guide", "gpu.triton_product"}  # where results are rendered; where Triton is installed
    scripts = [
        f"benchmarks.{name}" for name in module_paths(REPOSITORY / "benchmarks" / "gpu") if name not in elsewhere
    ]
    assert {*scripts} <= loaded_after(scripts, REPOSITORY, absent)


@pytest.mark.parametrize("bits", [4, 16])
def test_both_sides_of_a_comparison_have_the_same_weights(bits: int):
    spec, config = spec_of(bits), llama_config(128, 2)
    ours, theirs = random_trainee(config, spec, CPU).model, random_model(config, spec, CPU)
    ids_BT = torch.arange(12).view(1, 12)
    torch.testing.assert_close(theirs(ids_BT).logits, ours(ids_BT).logits)


@pytest.mark.parametrize("bits", [4, 16])
def test_both_sides_of_a_comparison_have_the_same_loss(bits: int):
    spec, config = spec_of(bits), llama_config(128, 2)
    trainee = random_trainee(config, spec, CPU)
    trainee.admit(0, spec)
    shares = shares_of(random_rows(16), 1, 0, 2)
    (ours,) = losses(trainee, shares)
    theirs = PeftSide(config, spec, CPU, Way(torch.float32)).step(shares[0].batches[0])
    assert theirs == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize(("hidden", "inner"), [(3200, 8640), (4096, 11_008), (8192, 22_016)])
def test_bases_have_the_shapes_that_were_published(hidden: int, inner: int):
    """OpenLLaMA 3B's, Llama 7B's and 65B's."""
    assert inner_size(hidden) == inner


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_product_of_a_packed_row_is_that_of_the_unpacked_weight(kind: Literal["nf4", "fp4"]):
    layer, x_NI = packed_layer(96, 320, kind), torch.randn(5, 320)
    torch.testing.assert_close(product_of_row(x_NI, layer, layer.packed), x_NI @ layer.weight.t())


def test_losses_are_the_same_where_the_kernel_is_chosen_by_rows():
    def trained(steps: int = 3) -> list[float]:
        trainee = random_trainee(llama_config(128, 2), spec_of(4), CPU)
        admit_all(trainee, 2)
        return [loss for step in range(steps) for loss in losses(trainee, shares_of(random_rows(16), 2, step, 1))]

    ours, whole = trained(), QuantLinear.whole
    with chosen_by_rows():
        assert trained() == pytest.approx(ours, abs=1e-5)
    assert QuantLinear.whole is whole


def test_a_pack_reads_the_base_once():
    trainee = random_trainee(llama_config(128, 2), spec_of(4), CPU)
    admit_all(trainee, 3)
    looked_up = trainee.model.get_input_embeddings().weight
    base = 2 * (trainee.held_base_bytes - looked_up.nbytes)
    assert sum(step_bytes(trainee, [slot]) for slot in range(3)) - step_bytes(trainee, [0, 1, 2]) == 2 * base
    assert step_bytes(trainee, [0]) - base == 4 * TRIPS * trainee.num_trainable(0)


INTERPRETED = """
import torch
from benchmarks.gpu.triton_product import triton_product
from tests.gpu.packed_layer import packed_layer

for num_rows, num_outputs, num_inputs in ((1, 96, 320), (5, 40, 64), (17, 64, 512)):
    layer, x_NI = packed_layer(num_outputs, num_inputs), torch.randn(num_rows, num_inputs)
    torch.testing.assert_close(triton_product(x_NI, layer), x_NI @ layer.weight.t(), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: it comes with torch for CUDA")
def test_tritons_product_is_that_of_the_unpacked_weight():
    """Its kernel runs as Python where Triton is told so before it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    folder = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", INTERPRETED], cwd=folder, env=environment, check=True, timeout=250)
