"""docs/benchmarks-gpu.md: how to run the scripts, what each is to show, and what was measured. Results enter."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu import ablation, exact, headline, kernels, low_rank, packing, paging, solo
from benchmarks.gpu.claim import NOT_YET
from benchmarks.results import load
from benchmarks.tables import table

SCRIPTS = tuple(module.SCRIPT for module in (headline, packing, ablation, low_rank, solo, exact, paging, kernels))

HEAD = f"""# Benchmarks on a GPU

Written by `python -m benchmarks --render` from `benchmarks/results/gpu_*.json`. A claim without a result there says
{NOT_YET}.

    python -m pip install torch transformers peft bitsandbytes pydantic pyarrow
    python -m benchmarks.gpu.headline --out benchmarks/results/gpu_headline.json

Run it in the root of a checkout; raylora itself need not be installed, only what it reads its configuration and rows
with (pydantic, pyarrow). It takes one CUDA device, no Ray, no MLflow, no DeepSpeed and no network: bases have the shape
of a Llama, and their weights are drawn at random and packed on the device, one by one. Each script is one run of at
most ten minutes on a GPU of 80 GB: after `--minutes` (8) no further case begins. The file is written after every case,
so a run that is cut off keeps what it found; a case without memory, or one that fails, costs the others nothing. The
table comes last; what failed otherwise than for want of memory is named after it, and the exit code is then 1.

- `--hidden 3200 --layers 26` is another base (3B-shaped), `--bits 16` one that is not quantized, `--keep-activations` a
  run without gradient checkpointing, `--turns` more or fewer of each side.
- Sides of a comparison take turns on the same weights and rows, and their first losses must agree; products are held
  against those in float64. Operations count once, without what is recomputed. A floor is the longer of operations and
  bytes at the device's own rates, measured in the same run: large square products, and copies.
- Memory is the peak of torch's allocator beside what `raylora estimate` predicts from the config alone.
- `paging` trains paged optimizers with `--oversubscribe` only: they then ask the driver for more managed memory than is
  free. That can hang a GPU that is virtual or shared; do it on a machine that is yours to restart.
- Triton comes with torch for CUDA, and its kernel is measured where it is. `pip install liger-kernel` adds Liger's
  kernels to `solo`, `pip install deepspeed` ZeRO's offloading to `paging`. Unsloth is not here.
- `--device cpu --hidden 256 --layers 1 --turns 1` tries a script on a CPU within a minute or two. A CPU's figures say
  nothing about a GPU's. `tests/gpu` does so in a tinier shape, and `pytest -m gpu` holds training on CUDA against that
  on a CPU.
"""


def render(results: Path) -> str:
    """The document.

    Args:
        results: Folder of the results.
    """
    parts = [HEAD]
    for script in SCRIPTS:
        found = load(results, f"gpu_{script.name}")
        claims = table(
            ("claim", "measured"), [claim.row(None if found is None else found["results"]) for claim in script.claims]
        )
        told = "" if found is None else f"\n{script.words(found)}"
        parts.append(
            f"## {script.title}\n\n`python -m benchmarks.gpu.{script.name}`: {script.about}.\n\n{claims}{told}"
        )
    return "\n".join(parts)
