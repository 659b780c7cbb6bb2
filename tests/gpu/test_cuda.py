"""What only a CUDA device can show, against the CPU: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raylora.spec.run import RunSpec
from raylora.train.build import build, place_base
from raylora.train.trainee import Trainee
from tests.unit.train.pack_run import MIXED, admit, losses_of, member_specs, train_all
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, run_steps, save_materials, tiny_spec

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"), pytest.mark.slow]

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
    assert any(tensor.dtype == torch.uint8 for tensor in state.values()) == optimizer.endswith("8bit")


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
