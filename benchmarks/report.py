"""Results become docs/benchmarks.md: tables that say what was compared, and on which machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.goals import goals
from benchmarks.report_full import full
from benchmarks.report_packs import makespan, packing, packing_workers, slots
from benchmarks.results import load
from benchmarks.tables import megabytes, products, spread, table

HEAD = """# Benchmarks

Written by `python -m benchmarks` from `benchmarks/results/*.json`; how they are measured is in
[benchmarks/README.md](../benchmarks/README.md). Every ratio has both sides from one run on one machine, taking turns;
figures are medians, with the lowest and highest in brackets. Where a step's time goes is said in decision
[5](decisions/0005-where-a-step-goes.md), a pack's in [6](decisions/0006-slots-of-their-own.md), a short sweep's in
[9](decisions/0009-where-a-short-sweeps-time-goes.md): there is what was tried where a goal is missed.

Rates are held against `torch.mm`, what a training loop of torch's own reaches; oneDNN, which raylora calls for its
frozen products, is 2.1 times as fast on an EPYC and up to 28 % slower on a Xeon. Sections tell of both, and goals are
held against both.
"""


def render(results: Path) -> str:
    """The document, from the results that are there."""
    sections: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "demo": ("`make demo`", _demo),
        "solo": ("One process against TRL", _solo),
        "workers": ("Two workers that shard a 4-bit base", _workers),
        "memory": ("Peak memory of a rank", _memory),
        "full": ("Adapters against all weights", full),
        "start": ("From the command to the first step", _start),
        "saving": ("What a checkpoint costs", _saving),
        "recovery": ("From a fault to where the run was", _recovery),
        "packing": ("A pack of adapters against each alone", packing),
        "packing_workers": ("A pack on two workers that shard the base", packing_workers),
        "slots": ("From 1 slot to 64", slots),
        "makespan_short": ("A sweep of 32 short trials against Ray Tune with one PEFT trial per actor", makespan),
        "makespan_longer": ("The same for 16 longer trials", makespan),
    }
    parts = [HEAD, "## Goals\n", goals(results)]
    for name, (title, write) in sections.items():
        result = load(results, name)
        if result is not None:
            parts += [f"## {title}\n", write(result["results"]), _machine(result)]
    return "\n".join(parts)


def _demo(results: Mapping[str, Any]) -> str:
    rows = [
        (
            how,
            f"{run['wall_s']:.0f}",
            f"{run['eval_loss_before']:.4f} to {run['eval_loss']:.4f} (-{run['loss_falls_by']:.1%})",
            f"{run['tokens_per_s']:,.0f}",
            megabytes(*run["base_bytes_per_rank"]),
        )
        for how, run in results["runs"].items()
    ]
    return (
        "`raylora train examples/quickstart.yaml` on what is installed, in an empty home: two workers, NF4, fsdp; in "
        "the dtype that it chooses on this machine, and in float32, which it chooses where the CPU has no bfloat16.\n\n"
        + table(("dtype", "wall clock, s", "validation loss", "tokens/s", "base per rank, MB"), rows)
    )


def _saving(results: Mapping[str, Any]) -> str:
    row = (spread(results[name]) for name in ("step_s", "waited_s", "written_s"))
    lost = "{median:.2%} ({lowest:.2%} to {highest:.2%})".format(**results["lost"])
    return (
        f"One process, {results['threads']} threads, NF4 base, r=16 on all linear layers, 4 x 128 tokens a step; "
        "adapter and moments go to a disk beside the steps that follow.\n\n"
        + table(
            (
                "a step, s",
                "training waits, s",
                "until it is written, s",
                f"lost, one in {results['steps_between']} steps",
            ),
            [(*row, lost)],
        )
    )


def _recovery(results: Mapping[str, Any]) -> str:
    faults = results["faults"]
    parts = next(iter(faults.values()))["parts_s"]
    rows = [(part, *(spread(found["parts_s"][part]) for found in faults.values())) for part in parts]
    spans = {
        "**fault to the end of the old workers**": "ended_s",
        "**from there to the next step**": "again_s",
        "**fault to where the run was**": "back_s",
    }
    rows += [(what, *(spread(found[span]) for found in faults.values())) for what, span in spans.items()]
    rows += [("steps done twice", *(spread(found["steps_again"], "{:.0f}") for found in faults.values()))]
    return (
        "Two workers, NF4, fsdp, 1 x 128 tokens on each, a checkpoint every 4 steps. In one run the worker of rank 1 "
        "is killed (SIGKILL), and when the run has recovered its successor is stopped (SIGSTOP), each 3 steps after a "
        "checkpoint. "
        "Parts follow one another. A process that is gone is noticed at the next look, one that is stopped not before "
        f"it was silent for `distributed.worker_timeout_s`, here {results['worker_timeout_s']} s. Ray and the driver "
        "stay; the new workers do what workers do at a start.\n\n"
        + table(("part, s", *(f"a worker is {fault}" for fault in faults)), rows)
    )


def _solo(results: Mapping[str, Any]) -> str:
    parts = [f"{results['threads']} threads a side.\n"]
    for case, result in results["cases"].items():
        parts += [f"### {case.capitalize()}\n", _sides(result)]
    rate = results["cases"]["all tokens"]["of_matrix_products"]
    parts += [
        f"### Against the machine's float32 matrix products\n\n{rate['step_flops'] / 1e9:.1f} GFLOP a step, counted "
        "in [flops.py](../benchmarks/flops.py).\n",
        products(rate),
    ]
    return "\n".join(parts)


def _workers(results: Mapping[str, Any]) -> str:
    parts = [
        "One thread a worker, 2 x 128 tokens on each; tokens/s are those of one of the two. On CPUs accelerate does "
        "not shard by FSDP2 what it is asked to: it says `MULTI_CPU` or `NO`, and each rank of TRL's holds the whole "
        "base.\n"
    ]
    for strategy, result in results.items():
        rows = [
            (name, ran["strategy"], str(ran["num_ranks"]), megabytes(*ran["base_bytes_per_rank"]))
            for name, ran in result["ran"].items()
        ]
        rows += [(name, f"does not run: `{error[:300]}`", "", "") for name, error in result["errors"].items()]
        parts += [
            f"### {strategy}\n",
            _sides(result),
            table(("side", "what it really ran", "ranks", "base held by each rank, MB"), rows),
        ]
    return "\n".join(parts)


def _memory(results: Mapping[str, Any]) -> str:
    rows = []
    for name, result in results.items():
        if "error" in result:
            rows.append((name, f"`{result['error'][:200]}`", "", "", ""))
            continue
        start = result["start_bytes_per_rank"]
        above = [peak - first for peak, first in zip(result["train_peak_bytes_per_rank"], start, strict=True)]
        loading = [peak - first for peak, first in zip(result["load_peak_bytes_per_rank"], start, strict=True)]
        predicted = [rank["peak_bytes"] for rank in result["predicted"]["ranks"]]
        figures = (result["base_bytes_per_rank"], loading, above, predicted)
        rows.append((name, *(megabytes(*sizes) for sizes in figures)))
    head = ("strategy, base", "base held", "peak while loading", "peak while training", "predicted")
    return (
        "MB (10^6 bytes) of each rank above what the process had before loading (interpreter and libraries), freed "
        "blocks given back. A float32 base under ddp and ZeRO-1 and 2 stays mapped from its file and is not in it. "
        "What is predicted are the tensors; libraries' own buffers and gaps between blocks come on top.\n\n"
        + table(head, rows)
    )


def _start(results: Mapping[str, Any]) -> str:
    rows = [(name, spread(seconds)) for name, seconds in results["parts_s"].items()]
    return "Two workers, NF4, fsdp, from a warm cache; parts of driver and workers overlap.\n\n" + table(
        ("part", "s"), [*rows, ("**command to first step**", spread(results["to_first_step_s"]))]
    )


def _sides(result: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            spread(side["step_s"]),
            spread(side["tokens_per_s"]),
            spread(result["times_faster_than"][name]) if name in result["times_faster_than"] else "",
        )
        for name, side in result["sides"].items()
    ]
    return table(("side", "s a step", "real tokens/s", "raylora is faster by"), rows)


def _machine(result: Mapping[str, Any]) -> str:
    machine, about = result["machine"], result["about"]
    turns = "once" if about["turns"] == 1 else f"{about['turns']} turns"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = f", load before {machine['load_before']}" if "load_before" in machine else ""
    return (
        f"{machine['date']}, {about['base']}, {turns}; {machine['cpu']} "
        f"({', '.join(machine['cpu_flags']) or 'no vector flags known'}), {machine['cores']} cores, "
        f"{machine['ram_gib']} GiB{load}; Python {machine['python']}, {versions}.\n"
    )
