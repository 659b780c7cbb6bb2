"""What only a CUDA device can show, against the CPU: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from benchmarks.gpu.material import losses, random_rows, run_spec, shares_of
from benchmarks.gpu.random_base import llama_config, random_trainee
from benchmarks.gpu.setting import Setting
from raylora.model.base.quant import QuantFormat
from raylora.spec.run import RunSpec
from raylora.train.build import build, place_base
from raylora.train.memory import PeakMemory
from raylora.train.prediction.estimate import estimate
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import MIXED, admit, losses_of, member_specs, train_all
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, run_steps, save_materials, tiny_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CUDA = torch.device("cuda")
SAME_LOSS = 1e-3
"""In float32, whose products a GPU sums in another order."""
OF_BITSANDBYTES = ("adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("cuda"), 60)


@pytest.fixture
def alone_on_nccl(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def spec_of(home: Path, **fields: object) -> RunSpec:
    return tiny_spec(home / "base", home / "rows.jsonl", **fields)


def trained(spec: RunSpec, home: Path, device: torch.device) -> tuple[Trainee, list[float]]:
    trainee = build(spec, Path(spec.base_model), BASE_NAME, device)
    rows, _ = open_rows(spec, home / "cache")
    return trainee, [result.loss for result in run_steps(trainee, rows, range(6))]


@pytest.mark.parametrize("fields", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}], ids=["plain", "nf4", "int8"])
def test_losses_are_the_cpus(home: Path, fields: dict[str, object]):
    spec = spec_of(home, **fields)
    (_, on_cpu), (_, on_cuda) = (trained(spec, home, device) for device in (CPU, CUDA))
    assert on_cuda == pytest.approx(on_cpu, abs=SAME_LOSS)


@pytest.mark.parametrize("optimizer", OF_BITSANDBYTES)
def test_optimizers_of_bitsandbytes_train(home: Path, optimizer: str):
    trainee, losses = trained(spec_of(home, optimizer=optimizer, lora_r=32), home, CUDA)
    assert losses[-1] < losses[0] - 0.1
    state = trainee.steppers[0].state()
    assert any(tensor.dtype == torch.uint8 for _, tensor in state) == optimizer.endswith("8bit")


@pytest.mark.parametrize("offloads", [False, True])
@pytest.mark.usefixtures("alone_on_nccl")
def test_fsdp_has_the_losses_of_ddp(home: Path, offloads: bool):
    place = {"strategy": "fsdp", "num_workers": 1, "cpu_offload": offloads}
    _, alone = trained(spec_of(home, load_in_4bit=True), home, CUDA)
    _, sharded = trained(spec_of(home, load_in_4bit=True, distributed=place), home, CUDA)
    assert sharded == pytest.approx(alone, abs=SAME_LOSS)


def test_a_pack_is_its_members_alone(home: Path):
    specs = member_specs(home, MIXED, load_in_4bit=True)
    together = place_base(specs[0], home / "base", BASE_NAME, CUDA)
    together.train_mode(True)
    members = [admit(together, slot, spec, home) for slot, spec in enumerate(specs)]
    train_all(together, members)
    for member, spec in zip(members, specs, strict=True):
        trainee = place_base(spec, home / "base", BASE_NAME, CUDA)
        trainee.train_mode(True)
        alone = admit(trainee, 0, spec, home)
        train_all(trainee, [alone])
        told, wanted = (losses_of(each, ["train_loss", "eval_loss"]) for each in (member, alone))
        assert told == pytest.approx(wanted, abs=SAME_LOSS)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_in_nf4_comes_back_as_from_bitsandbytes(dtype: torch.dtype, double_quant: bool):
    weight_OI = torch.randn(256, 192, device=CUDA).to(dtype)
    form = QuantFormat("nf4", double_quant, dtype)
    values, state = quantize_4bit(weight_OI, blocksize=64, compress_statistics=double_quant, quant_type="nf4")
    assert torch.equal(form.unpack(form.pack(weight_OI), (256, 192), dtype), dequantize_4bit(values, state))


@pytest.mark.parametrize("bits", [4, 16])
def test_the_predicted_peak_is_measured(bits: int):
    """A Llama so wide that cuBLAS's own workspace is little of it."""
    setting = Setting(CUDA, hidden=2048, layers=4, turns=1, bits=bits)
    config, spec = llama_config(setting.hidden, setting.layers), run_spec(setting, 4, 512)
    with PeakMemory(CUDA) as memory:
        trainee = random_trainee(config, spec, CUDA)
        trainee.admit(0, spec)
        for step in range(2):
            losses(trainee, shares_of(random_rows(512), 1, step, 4))
    measured = memory.peak_bytes - memory.start_bytes
    assert measured == pytest.approx(estimate(spec, config, "cuda").peak_bytes, rel=0.05)
