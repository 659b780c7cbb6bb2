"""What a GPU run has beside its weights, in the right memory: buffers, and moments that page; on a CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from bitsandbytes.optim.adamw import AdamW
from torch import Tensor, nn

from raylora.model.base.load import base_on_meta, load_base
from raylora.model.base.meta import read_config
from raylora.strategy.flat import FlatStepper
from tests.unit.train.tiny_run import save_materials, tiny_spec

META = torch.device("meta")


class Paging(AdamW):
    """Marks what it makes for moments as bitsandbytes marks memory that the driver moves."""

    def get_state_buffer(self, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        buffer = super().get_state_buffer(p, dtype)
        buffer.is_paged = True
        return buffer


def stepper(optim_bits: int) -> FlatStepper:
    torch.manual_seed(0)
    named = {"lora_A": nn.Parameter(torch.randn(8, 700)), "lora_B": nn.Parameter(torch.randn(9, 8))}
    make = partial(Paging, lr=0.0, optim_bits=optim_bits)
    made = FlatStepper(named, make, 0.0, dict.fromkeys(named, 1.0))
    made.backward(sum((parameter**2).sum() for parameter in named.values()))
    return made


def test_moments_that_page_do_so_after_a_resume():
    for optim_bits in (8, 32):
        before, after = stepper(optim_bits), stepper(optim_bits)
        before.step(1e-2)
        after.load_state(dict(before.state()))
        (kept,) = after._optimizer.state.values()
        assert kept["state1"].is_paged and kept["state2"].is_paged
        saved = dict(before.state())
        assert all(torch.equal(value, saved[name]) for name, value in after.state())


def test_buffers_go_where_the_weights_are(tmp_path: Path):
    """The meta device stands for a GPU."""
    home = save_materials(tmp_path, 4)
    spec = tiny_spec(home / "base", home / "rows.jsonl")
    model = base_on_meta(read_config(home / "base"), spec, torch.float32)
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
    load_base(model, home / "base", META, lambda part: None)
    assert {buffer.device.type for buffer in model.buffers()} == {"meta"}
