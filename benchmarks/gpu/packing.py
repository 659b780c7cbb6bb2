"""`python -m benchmarks.gpu.packing`: a pack of adapters against each alone, on one CUDA device, over a 7B-shaped base.

Prints a table, and then one JSON object; the README beside says what a machine needs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import torch

from benchmarks.flops import step_flops
from benchmarks.gpu.random_base import SEVEN_B, VOCAB_SIZE, llama_config, random_trainee
from benchmarks.predicted import pack_bytes
from benchmarks.summaries import ratios, summary
from benchmarks.tables import megabytes, spread, table
from benchmarks.workload import LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_GRAD_NORM
from raylora.data.collate import collate
from raylora.data.tokenised import TokenisedRows
from raylora.spec.run import RunSpec
from raylora.train.memory import PeakMemory
from raylora.train.step import Share, StepResult, train_step
from raylora.train.trainee import Trainee

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
NUM_ROWS = 256
SAME_LOSS = 2e-2
"""Of the first step: in bfloat16 a kernel may be chosen by the number of rows."""
SQUARE = 8192


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        rows: Of each slot's micro-batch.
        tokens: Of a row.
        slots: In the pack.
        goal: How many times faster the pack is to be.
    """

    rows: int
    tokens: int
    slots: int
    goal: float

    @property
    def name(self) -> str:
        """Short words."""
        return f"{self.rows} x {self.tokens} tokens, {self.slots} slots"


CASES = (Case(1, 512, 8, 2.5), Case(2, 512, 8, 1.6), Case(4, 512, 8, 1.1), Case(1, 128, 32, 8.0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.packing", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default: cuda)")
    parser.add_argument("--layers", type=int, default=SEVEN_B["layers"], help="blocks of the base (default: 32)")
    parser.add_argument("--hidden", type=int, default=SEVEN_B["hidden"], help="hidden size (default: 4096)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side that count (default: 5)")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing; takes much memory")
    parser.add_argument("--out", type=Path, help="write the JSON object to this file as well")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    found = {
        "benchmark": "gpu_packing",
        "machine": _machine(device),
        "about": {
            "layers": asked.layers,
            "hidden": asked.hidden,
            "turns": asked.turns,
            "gradient_checkpointing": not asked.keep_activations,
        },
        "results": _measure(asked, device),
    }
    text = json.dumps(found, indent=1)
    print(render(found))
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


def render(found: dict[str, Any]) -> str:
    """The result as a table of Markdown."""
    head = ("micro-batch", "alone, s", "pack, s", "pack is faster by", "goal", "TFLOP/s", "peak, MB", "predicted, MB")
    rows = [
        (
            name,
            spread(case["alone_s"], "{:.3f}"),
            spread(case["pack_s"], "{:.3f}"),
            spread(case["pack_is_faster_by"]),
            f"{case['goal']}",
            spread({key: rate / 1e12 for key, rate in case["flops_per_s"].items()}, "{:.2f}"),
            megabytes(case["pack_peak_bytes"]),
            megabytes(case["predicted"]["peak_bytes"]),
        )
        for name, case in found["results"]["cases"].items()
    ]
    machine, about = found["machine"], found["about"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['device']}; a Llama of {about['layers']} layers, {about['hidden']} wide, random weights in NF4, "
        f"compute in {found['results']['dtype']}, gradient checkpointing "
        f"{'on' if about['gradient_checkpointing'] else 'off'}; {about['turns']} turns. Large square products: "
        f"{found['results']['square_flops_per_s'] / 1e12:.1f} TFLOP/s. Operations are counted without what is "
        f"recomputed. {versions}.\n\n{table(head, rows)}"
    )


def _measure(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    config = llama_config(asked.hidden, asked.layers)
    longest = max(case.tokens for case in CASES)
    spec = _spec(longest, not asked.keep_activations)
    with PeakMemory(device) as memory:
        trainee = random_trainee(config, spec, device)
    start_bytes = memory.start_bytes
    cases = {}
    for case in CASES:
        print(case.name, file=sys.stderr, flush=True)
        of_slot = spec.model_copy(update={"micro_batch_size": case.rows, "sequence_len": case.tokens})
        cases[case.name] = {
            "goal": case.goal,
            **_compare(trainee, case, asked.turns, start_bytes),
            "predicted": pack_bytes(of_slot, config, device.type, case.slots),
        }
    dtype = trainee.model.dtype
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "base_bytes": trainee.held_base_bytes,
        "square_flops_per_s": _square_rate(device, dtype),
        "cases": cases,
    }


def _compare(trainee: Trainee, case: Case, num_turns: int, start_bytes: int) -> dict[str, Any]:
    """Both sides on the same slots, in turns; each side's first step, on slots at their start, is its warm-up."""
    rows = _rows(case.tokens)
    sides: dict[str, Callable[[int], list[float]]] = {
        "alone": lambda turn: _alone(trainee, _shares(case, rows, turn)),
        "pack": lambda turn: _losses(train_step(trainee, _shares(case, rows, turn))),
    }
    first = {name: _fresh(trainee, case, side) for name, side in sides.items()}
    apart = max(abs(one - other) for one, other in zip(first["alone"], first["pack"], strict=True))
    if apart > SAME_LOSS:
        raise SystemExit(f"{case.name}: the first losses differ by {apart}, so the sides do not do the same work")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, int] = dict.fromkeys(sides, 0)
    for turn in range(1, 1 + num_turns):
        for name, side in sides.items():
            with PeakMemory(trainee.device) as memory:
                seconds[name].append(_timed(trainee.device, side, turn))
            peaks[name] = max(peaks[name], memory.peak_bytes - start_bytes)
    shares = _shares(case, rows, 0)
    flops = step_flops(trainee, shares)
    _release(trainee, case)
    return {
        "alone_s": summary(seconds["alone"]),
        "pack_s": summary(seconds["pack"]),
        "pack_is_faster_by": ratios(seconds["alone"], seconds["pack"]),
        "flops": flops,
        "flops_per_s": summary([flops / taken for taken in seconds["pack"]]),
        "alone_peak_bytes": peaks["alone"],
        "pack_peak_bytes": peaks["pack"],
        "first_losses_apart": apart,
    }


def _fresh(trainee: Trainee, case: Case, side: Callable[[int], list[float]]) -> list[float]:
    """Losses of a side's step on new adapters, the same for each side."""
    if trainee.steppers:
        _release(trainee, case)
    for slot in range(case.slots):
        trainee.admit(slot, trainee.spec.model_copy(update={"seed": slot}))
    return side(0)


def _release(trainee: Trainee, case: Case) -> None:
    for slot in range(case.slots):
        trainee.release(slot)


def _timed(device: torch.device, side: Callable[[int], list[float]], turn: int) -> float:
    _wait(device)
    start = perf_counter()
    side(turn)
    _wait(device)
    return perf_counter() - start


def _alone(trainee: Trainee, shares: Sequence[Share]) -> list[float]:
    return [loss for share in shares for loss in _losses(train_step(trainee, [share]))]


def _losses(results: dict[int, Any]) -> list[float]:
    losses = []
    for result in results.values():
        if not isinstance(result, StepResult):
            raise result
        losses.append(result.loss)
    return losses


def _shares(case: Case, rows: TokenisedRows, turn: int) -> list[Share]:
    shares = []
    for slot in range(case.slots):
        first = (turn * case.slots + slot) * case.rows
        bins = [((first + row) % len(rows),) for row in range(case.rows)]
        shares.append(Share(slot, turn, LEARNING_RATE, [collate(bins, rows, 0)]))
    return shares


def _rows(num_tokens: int) -> TokenisedRows:
    """Random tokens, loss on all of them."""
    ids = torch.randint(VOCAB_SIZE, (NUM_ROWS, num_tokens), generator=torch.Generator().manual_seed(0))
    is_label = torch.ones_like(ids)
    columns = {
        "input_ids": pa.array(ids.tolist(), pa.list_(pa.int32())),
        "is_label": pa.array(is_label.tolist(), pa.list_(pa.uint8())),
    }
    return TokenisedRows.of((), [pa.table(columns)])


def _spec(sequence_len: int, gradient_checkpointing: bool) -> RunSpec:
    return RunSpec.model_validate(
        {
            "base_model": "random",
            "datasets": [{"path": "random.jsonl"}],
            "load_in_4bit": True,
            "lora_r": LORA_R,
            "lora_alpha": LORA_ALPHA,
            "sequence_len": sequence_len,
            "max_grad_norm": MAX_GRAD_NORM,
            "gradient_checkpointing": gradient_checkpointing,
        }
    )


def _square_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large square products: 8192 wide on a GPU, 1024 on a CPU."""
    size, repeats = (SQUARE, 20) if device.type == "cuda" else (1024, 5)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    _wait(device)
    start = perf_counter()
    for _ in range(repeats):
        left @ right
    _wait(device)
    return repeats * 2 * size**3 / (perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return {"device": name, "versions": {name: version(name) for name in PACKAGES}}


if __name__ == "__main__":
    main()
