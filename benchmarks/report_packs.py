"""The sections of docs/benchmarks.md on packs and sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables import giga, megabytes, percent, products, spread, table

ROOFLINE = "128"
"""Tokens of a slot's row for which the machine's products are told in full."""


def packing(results: Mapping[str, Any]) -> str:
    """A pack against each of its slots alone, in one process."""
    rows = [
        (
            name,
            str(found["tokens"]),
            spread(found["alone_s"]),
            spread(found["pack_s"]),
            spread(found["pack_is_faster_by"]),
            f"{results['goals'][name]:.1f}",
            spread(found["at_most_faster_by"]),
        )
        for name, found in results["lengths"].items()
    ]
    head = ("tokens a slot", "a step", "alone, s", "pack, s", "pack is faster by", "goal", "at the product rate")
    reaches = [
        (
            name,
            f"{found['of_matrix_products']['step_flops'] / 1e9:.1f}",
            giga(found["of_matrix_products"]["step_flops_per_s"]),
            *(
                percent(found["of_matrix_products"]["kernels"][kernel]["model_shapes"]["step_reaches"])
                for kernel in ("torch.mm", "oneDNN")
            ),
        )
        for name, found in results["lengths"].items()
    ]
    return "\n".join(
        (
            f"One process, {results['threads']} threads, NF4 base, {results['num_slots']} slots, r=16 on all linear "
            "layers. Both sides step in one process on one placed base, in turns, through the same code; their losses "
            "agree, bit for bit with one thread and to a thousandth with more, or the benchmark fails. The last column "
            "is what a pack would gain if every operation that it needs ran at the rate of the faster product kernel. "
            "Beside the goals of the table: never below "
            f"{results['never_below']}x.\n",
            table(head, rows),
            "### What a pack's step reaches of the machine's float32 matrix products\n\nProducts of the model's shapes "
            "with as many rows as the step has tokens.\n",
            table(("tokens a slot", "GFLOP a step", "GFLOP/s", "of `torch.mm`", "of oneDNN"), reaches),
            *(f"### {what[0].upper()}{what[1:]}\n\n{_times(found)}" for what, found in results["others"].items()),
            f"### With {ROOFLINE} tokens a slot, in full\n",
            products(results["lengths"][ROOFLINE]["of_matrix_products"]),
        )
    )


def _times(lengths: Mapping[str, Any]) -> str:
    rows = [
        (name, spread(found["alone_s"]), spread(found["pack_s"]), spread(found["pack_is_faster_by"]))
        for name, found in lengths.items()
    ]
    return table(("tokens a slot", "alone, s", "pack, s", "pack is faster by"), rows)


def packing_workers(results: Mapping[str, Any]) -> str:
    """A pack against each of its slots alone, on two workers."""
    parts = [
        f"{results['num_ranks']} workers of one thread over gloo, NF4 base, {results['num_slots']} slots. The tokens "
        "are those of each slot on each rank; alone, each slot's rows are split over the ranks. A step has the "
        "same rows in every line of a length. Seconds are those of the slower rank. A sweep with at least as many "
        "slots as workers has them at home on a rank; the table of goals tells of that. Were there nothing but "
        "gathers of the base, by plain collectives over its shards, and products at the rate of the faster kernel, a "
        "pack would be faster by what the last column says.\n"
    ]
    for strategy, found in results["strategies"].items():
        goals, rows = results["goals"].get(strategy, {}), []
        for name, length in found["lengths"].items():
            rows.append((name, "alone", spread(length["alone_s"]), "", "", ""))
            rows += [
                (
                    name,
                    side,
                    spread(pack["pack_s"]),
                    spread(pack["is_faster_by"]),
                    str(goals.get(name, "")),
                    spread(length["at_most_faster_by"]),
                )
                for side, pack in length["packs"].items()
            ]
        head = ("tokens", "side", "s for all slots", "faster by", "goal", "were there only these")
        floors = [
            (name, spread(length["gather_s"]), spread(length["products_s"]))
            for name, length in found["lengths"].items()
        ]
        parts += [f"### {strategy}\n", table(head, rows)]
        parts.append(table(("tokens", "gathers of a step, s", "products of all slots, s"), floors))
    return "\n".join(parts)


def slots(results: Mapping[str, Any]) -> str:
    """Speed and memory over the slots."""
    rows = [
        (
            count,
            spread(speed["step_s"]),
            spread(speed["tokens_per_s"], "{:.0f}"),
            spread(speed["times_one_slot"]),
            *_memory_cells(results["memory"][count], results["predicted"][count]),
        )
        for count, speed in results["speed"].items()
    ]
    grown = results["growth_per_slot"]
    predicted = grown["predicted_bytes"]
    words = ", ".join(
        f"{name} {megabytes(grown[key])} MB ({grown[key] / predicted - 1:+.1%})"
        for name, key in (("tensors counted", "live_bytes"), ("resident memory", "resident_bytes"))
    )
    head = ("slots", "s a step", "tokens/s", "times one slot", "base", "between steps", "predicted")
    head += ("peak, counted", "peak, resident", "predicted")
    return "\n".join(
        (
            f"{results['threads']} threads, NF4 base, one row of {results['row_tokens']} tokens a slot, r=16 on all "
            "linear layers. MB (10^6 bytes): the base; what the slots hold between steps, counted tensor by tensor; "
            "and the peak of a step, base and slots included, counted, and as the process's own resident memory above "
            "its start.\n",
            "![tokens a second and memory over 1 to 64 slots](pictures/slots.png)\n",
            table(head, rows),
            f"Growth between steps of each slot from the second to number {grown['slots']}: predicted "
            f"{megabytes(predicted)} MB, {words}; goal: within 5 %.\n",
        )
    )


def _memory_cells(memory: Mapping[str, int], predicted: Mapping[str, int]) -> tuple[str, ...]:
    counted_peak = memory["base_bytes"] + memory["live_peak_bytes"]
    return (
        megabytes(memory["base_bytes"]),
        megabytes(memory["live_bytes"]),
        megabytes(predicted["slots_bytes"]),
        megabytes(counted_peak),
        megabytes(memory["resident_peak_bytes"]),
        megabytes(predicted["peak_bytes"]),
    )


def makespan(results: Mapping[str, Any]) -> str:
    """A sweep against Ray Tune."""
    asked, floor = results["asked"], results["floor"]
    rows = [
        (
            f"{side}, {how}",
            f"{told['makespan_s']:.1f}",
            str(told["steps"]),
            f"{told['makespan_s'] / found['sides']['raylora']['makespan_s']:.2f}" if side != "raylora" else "",
            *(
                f"{told['makespan_s'] / floor_s:.2f}" if how == "no early stopping" else ""
                for floor_s in floor["floor_s"].values()
            ),
        )
        for how, found in results["found"].items()
        for side, told in found["sides"].items()
    ]
    floors = ", ".join(
        f"{floor['start_s']:.1f} s + {seconds:.1f} s at the rate of {kernel} = {floor['floor_s'][kernel]:.1f} s"
        for kernel, seconds in floor["products_s"].items()
    )
    head = ("side", "s", "steps trained", "raylora is faster by", *(f"times the floor, {k}" for k in floor["floor_s"]))
    return (
        f"{asked['num_trials']} trials, {asked['num_steps']} steps of {asked['rows_per_step']} x {asked['row_tokens']} "
        f"tokens. Seconds from the command to its end, {results['threads']} cores, NF4 base in float32, each run once. "
        "The other side is a Tune function that loads the base, trains a LoRA of PEFT and saves it, one trial per "
        "actor, with all threads one at a time or half of them two at once. Both sides try the same configurations on "
        f"the same rows. The floor is one start-up and the {floor['flops'] / 1e12:.2f} TFLOP of all trials at the rate "
        f"of one of two product kernels: {floors}.\n\n" + table(head, rows)
    )
