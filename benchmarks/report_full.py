"""The section of `full` in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables import megabytes, spread, table


def full(results: Mapping[str, Any]) -> str:
    """Adapters beside all weights.

    Args:
        results: As `benchmarks.full` leaves them.
    """
    rows = []
    for name, method in results["methods"].items():
        loss = method["eval_loss"]
        rows.append(
            (
                name,
                f"{method['learning_rate']:g}",
                f"{method['trainable_parameters']:,}",
                f"{method['mean_eval_loss']:.4f} ({loss['lowest']:.4f} to {loss['highest']:.4f})",
                megabytes(method["optimizer_bytes"]),
                megabytes(method["peak_bytes"]["median"] + method["mapped_bytes"]),
                megabytes(method["predicted"]["peak_bytes"]),
                spread(method["step_s"]),
            )
        )
    head = (
        "what trains", "rate", "values that train", "validation loss", "moments, MB", "peak, MB", "predicted, MB",
        "s a step",
    )  # fmt: skip
    before = results["eval_loss_before"]
    return (
        f"The documentation of Python's library, {results['rows']} a step, {results['steps']} steps, "
        f"{results['seeds']} seeds that draw the rows and the adapter's start; one process, {results['threads']} "
        f"threads, float32. Validation loss is {before:.4f} before; after, the mean over the seeds with the lowest and "
        "highest. Rates are the usual ones of each, none searched: what is compared is what a run costs and where it "
        "stands after equally many steps, not the best that each can do. A peak is the process's own memory above what "
        "it had before loading, freed blocks given back, and the part of a frozen base that is used where it is mapped "
        "from its file: all of a plain one, the embedding of one in NF4. So every peak holds its base, as what is "
        "predicted does.\n\n" + table(head, rows)
    )
