"""docs/benchmarks-gpu.md: how to run the scripts, what each is to show, and what was measured. Results enter."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu import exact, headline, kernels, packing, paging, solo
from benchmarks.results import load

SCRIPTS = tuple(module.SCRIPT for module in (headline, packing, solo, exact, paging, kernels))

HEAD = """# Benchmarks on a GPU

Written by `python -m benchmarks --render` from `benchmarks/results/gpu_*.json`. What has no result there says so.

    python -m pip install torch transformers peft bitsandbytes pydantic pyarrow
    python -m benchmarks.gpu.headline --out benchmarks/results/gpu_headline.json

Run it in the root of a checkout; raylora itself need not be installed. It takes one CUDA device, no Ray, no MLflow and
no network: bases have the shape of a Llama, and their weights are drawn at random and packed on the device, one by
one. Each script is meant to take less than ten minutes on a GPU of 80 GB; it prints JSON and, last, a table.

- `--hidden 3200 --layers 26` is another base (3B-shaped), `--bits 16` one that is not quantized, `--keep-activations` a
  run without gradient checkpointing, `--turns` more or fewer of each side.
- Sides of a comparison take turns on the same weights and rows, and their first losses must agree. Operations count
  once, without what is recomputed, and are held against the device's own large square products; bytes against its
  copies.
- Memory is the peak of torch's allocator beside what `raylora estimate` predicts from the config alone.
- `--device cpu --hidden 256 --layers 1 --turns 1` tries a script on a CPU within a minute or two. A CPU's figures say
  nothing about a GPU's. `tests/gpu` does so in a tinier shape, and `pytest -m gpu` holds training on CUDA against that
  on a CPU.
- Not here: DeepSpeed's offloading, which such a machine has not; Unsloth and Liger as further sides.
"""

MISSING = "**Not measured on a GPU yet.**\n"


def render(results: Path) -> str:
    """The document.

    Args:
        results: Folder of the results.
    """
    parts = [HEAD]
    for script in SCRIPTS:
        found = load(results, f"gpu_{script.name}")
        told = MISSING if found is None else script.words(found)
        parts.append(f"## {script.title}\n\n`python -m benchmarks.gpu.{script.name}`: {script.claim}.\n\n{told}")
    return "\n".join(parts)
