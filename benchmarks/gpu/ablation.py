"""`python -m benchmarks.gpu.ablation`: what a pack's speed comes from, by taking away one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.attempt import NotTheSameError, attempt, told, why_not
from benchmarks.gpu.claim import Claim, of_each_case
from benchmarks.gpu.device import replayed, timed
from benchmarks.gpu.material import SAME_LOSS, losses, random_rows, shares_of
from benchmarks.gpu.packing import Base, Case, admit_all, release_all
from benchmarks.gpu.random_base import SEVEN_B, kept_activations
from benchmarks.gpu.script import Script
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.taken_apart import (
    Without,
    all_apart,
    base_products_apart,
    low_rank_products_apart,
    unpacked_for_each,
)
from benchmarks.summaries import ratios, summary
from benchmarks.tables import spread, table
from raylora.data.flat import flatten, join
from raylora.model.rows.route import Span
from raylora.train.step import Share
from raylora.train.trainee import Trainee

CASES = (Case(1, 512, 8, 2.5), Case(1, 128, 32, 8.0))
PACK, ALONE = "the pack", "each slot alone"
WITHOUT: dict[str, Without] = {
    "low-rank products slot by slot": low_rank_products_apart,
    "weights unpacked for each slot": unpacked_for_each,
    "products with the base slot by slot": base_products_apart,
    "all three": all_apart,
}
CALLED, REPLAYED = "blocks, forward and backward, as called", "blocks, as a CUDA graph"


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    """Every case: steps of the pack with things taken away, in turns; then what launching its kernels costs."""
    base, results = Base(setting), {"cases": dict[str, Any]()}
    works: list[tuple[str, Callable[[Base, Case], dict[str, Any]]]] = [("steps", _steps), ("launches", _launches)]
    for case in CASES:
        for what, work in works:
            name = f"{case.name}: {what}"
            results["cases"][name] = attempt(setting, name, partial(work, base, case))
            yield results


def render(results: Mapping[str, Any]) -> str:
    """A line for each side of each case."""
    rows = []
    for name, case in results["cases"].items():
        for side, seconds in case.get("sides", {}).items():
            times = case["times"].get(side)
            rows.append((name, side, spread(seconds, "{:.3f}"), "" if times is None else spread(times)))
        if "sides" not in case:
            rows.append((name, "", why_not(case), ""))
        elif "why_no_graph" in case:
            rows.append((name, REPLAYED, told(case, "why_no_graph"), ""))
    return (
        "Each side gives the same losses by other calls. Steps are compared with the pack's; the blocks as called keep "
        "their activations, since what runs again asks for a state of random numbers that a graph cannot record, and a "
        "graph of them has no Python and no launches.\n\n"
        f"{table(('micro-batch', 'side', 's', 'times as long as the first'), rows)}"
    )


SCRIPT = Script(
    "ablation",
    "What a pack's speed comes from",
    "a pack's step with the shared base, the stacked products and the common unpacking taken away in turn, and its "
    "blocks as a CUDA graph",
    (
        *(Claim(f"a pack's step with {side}: how many times as long", of_each_case("times", side)) for side in WITHOUT),
        Claim("each slot alone: how many times as long as the pack", of_each_case("times", ALONE)),
        Claim(
            "a pack's blocks as a CUDA graph: their time as a part of that as called", of_each_case("times", REPLAYED)
        ),
    ),
    measure,
    render,
    *SEVEN_B,
    turns=3,
)


def _steps(base: Base, case: Case) -> dict[str, Any]:
    """A step of every side in turns; each side's first one, on adapters at their start, warms up and is compared."""
    trainee, rows = base.trainee, random_rows(case.tokens)

    def pack(without: Without, turn: int) -> list[float]:
        with without(case.slots):
            return losses(trainee, shares_of(rows, case.slots, turn, case.rows))

    def alone(turn: int) -> list[float]:
        shares = shares_of(rows, case.slots, turn, case.rows)
        return [loss for share in shares for loss in losses(trainee, [share])]

    sides: dict[str, Callable[[int], list[float]]] = {PACK: partial(pack, lambda num_slots: nullcontext())}
    sides |= {name: partial(pack, without) for name, without in WITHOUT.items()}
    sides[ALONE] = alone
    first = {}
    for name, side in sides.items():
        admit_all(trainee, case.slots)
        first[name] = side(0)
    apart = {
        name: max(abs(one - other) for one, other in zip(of_side, first[PACK], strict=True))
        for name, of_side in first.items()
    }
    if max(apart.values()) > SAME_LOSS[trainee.model.dtype]:
        raise NotTheSameError(f"the first losses differ from the pack's by {apart}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1, 1 + base.setting.turns):
        for name, side in sides.items():
            seconds[name].append(timed(trainee.device, partial(side, turn)))
    release_all(trainee)
    return {"first_losses_apart": apart, **_against(PACK, seconds)}


def _launches(base: Base, case: Case) -> dict[str, Any]:
    """Forward and backward pass of the blocks with all slots' tokens, as called and as a CUDA graph."""
    trainee = base.trainee
    admit_all(trainee, case.slots)
    passes = _passes(trainee, shares_of(random_rows(case.tokens), case.slots, 0, case.rows))
    found: dict[str, Any] = {}
    with kept_activations(trainee):
        passes()
        seconds = {CALLED: [timed(trainee.device, passes) for _ in range(base.setting.turns)]}
        try:
            seconds[REPLAYED] = replayed(trainee.device, [passes], base.setting.turns)
        except RuntimeError as error:  # of CUDA, where a kernel of a library cannot be recorded
            found["why_no_graph"] = str(error).partition("\n")[0]
    release_all(trainee)
    return found | _against(CALLED, seconds)


def _passes(trainee: Trainee, shares: Sequence[Share]) -> Callable[[], None]:
    """What runs the blocks over the shares' rows and back, without waiting for the device."""
    lines = [flatten(share.batches[0]) for share in shares]
    spans = [Span(share.slot, num_tokens=line.num_tokens) for share, line in zip(shares, lines, strict=True)]
    line = join(lines).to(trainee.device)
    with torch.no_grad():
        embedded_1NH = trainee.model.get_input_embeddings()(line.input_ids_1N)
    no_mask = torch.empty(1, 1, 0, 0, device=trainee.device)
    gradient_1NH = torch.ones_like(embedded_1NH)

    def passes() -> None:
        trainee.bank.route(spans)
        hidden_1NH = trainee.model.base_model(
            inputs_embeds=embedded_1NH,
            position_ids=line.position_ids_1N,
            attention_mask=no_mask,
            row_lengths=line.row_lengths,
            use_cache=False,
        ).last_hidden_state
        hidden_1NH.backward(gradient_1NH)

    return passes


def _against(first: str, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    return {
        "sides": {name: summary(of_side) for name, of_side in seconds.items()},
        "times": {name: ratios(of_side, seconds[first]) for name, of_side in seconds.items() if name != first},
    }


if __name__ == "__main__":
    SCRIPT.run()
