"""How many slots this machine is fastest with: a few steps of 1, 2, 4, ... slots on the placed base, before any trial.

A placed base, runs like those that will come and a batch enter; a number of slots leaves, and the base is as it was. A
plan knows what fits; only a measurement knows whether rows side by side are faster than one after the other. Called by
the runtime's pack on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from raylora.data.collate import Batch
from raylora.errors import InputError, RunFailedError
from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.train.admission import soon_started
from raylora.train.step import Share, train_step
from raylora.train.trainee import Trainee

log = get_logger(__name__)

NEVER_BELOW = 0.97
"""Of the tokens a second of one slot, what a wider pack must reach."""

RISING = 1.03
"""A width that is so many times as fast as the one before it has not reached its best."""

CHEAP = 0.5
"""A further slot that takes this part of the time of one alone, or less, foretells that any wider pack is faster than
its slots one after the other: far beyond what was measured, a further slot was seen to take up to 1.5 times as long."""

MIN_S, MAX_S, SHARE = 2.0, 30.0, 0.03
"""Longest calibration, as far as steps are foreseen to take twice as long with twice the slots: a part of the time that
all slots would train one after the other, within limits; two widths are always tried. A calibration may not cost what
it saves."""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Args:
        num_slots: Slots of a rank that are fastest.
        tokens_per_s: Of all ranks, by the number of a rank's slots.
    """

    num_slots: int
    tokens_per_s: dict[int, float]


def calibrate(trainee: Trainee, specs: Sequence[RunSpec], batch: Batch, at_most: int, num_passes: int) -> Calibration:
    """Find the fastest number of slots; a collective call with the same answer on every rank.

    Args:
        trainee: A placed base without slots, in training mode; left so.
        specs: At least one run, for the slots in turn. Slots that are alike share calls, so that these must be as
            unlike as those that will come; where each rank has slots of its own, they may differ by rank.
        batch: This rank's micro-batch, which every slot takes.
        at_most: Slots of a rank that fit, at least 1; equal on every rank.
        num_passes: Micro-batches that each slot will train on.
    """
    ranks = trainee.ranks
    num_tokens, rates = sum(ranks.gather(batch.num_tokens)), dict[int, float]()
    start = perf_counter()
    for width in _widths(at_most):
        fits = [_fits(trainee, slot, specs, num_passes) for slot in range(len(trainee.steppers), width)]
        if not all(ranks.gather(all(fits))):
            break
        seconds = _step_s(trainee, batch, width)
        if width == 1 or width * num_tokens / seconds < RISING * max(rates.values()):
            # The first step makes the state of the new slots, the very first much else; or somebody else was at work.
            seconds = min(seconds, _step_s(trainee, batch, width))
        for tried in (*rates, width):
            # No width takes longer than a wider one: a step that did was held up by something else.
            rates[tried] = max(rates.get(tried, 0.0), tried * num_tokens / seconds)
        passed_s = max(ranks.gather(perf_counter() - start))
        budget_s = min(MAX_S, max(MIN_S, SHARE * at_most * num_passes * num_tokens / rates[1]))
        if rates[width] < NEVER_BELOW * max(rates.values()) or (width > 1 and passed_s + 2 * seconds > budget_s):
            break
    if rates and width < best_width(rates, at_most) < at_most:
        # Still getting faster, yet not fast enough to foresee more: a step that was held up looks the same.
        rates[width] = max(rates[width], width * num_tokens / _step_s(trainee, batch, width))
    for slot in list(trainee.steppers):
        trainee.release(slot)
    return Calibration(best_width(rates, at_most) if rates else at_most, rates)


def _fits(trainee: Trainee, slot: int, specs: Sequence[RunSpec], num_passes: int) -> bool:
    """Let the next run in turn into a slot. One that the base refuses is passed over; it fails when its trial comes."""
    first = slot % len(specs)
    for spec in (*specs[first:], *specs[:first]):
        try:
            _admit(trainee, slot, soon_started(spec), spec.max_steps or num_passes // spec.gradient_accumulation_steps)
        except InputError as error:
            log.debug("a run that no width is tried with: %s", error)
        except RunFailedError as error:
            log.debug("no more widths are tried: %s", error)
            return False
        else:
            return True
    return False


def _admit(trainee: Trainee, slot: int, spec: RunSpec, num_steps: int) -> None:
    """As the runs that will come, which take ranks away in their steps where they are of that kind."""
    trainee.admit(slot, spec)
    try:
        trainee.begin(slot, spec, num_steps)
    except InputError:
        trainee.release(slot)
        raise


def best_width(rates: Mapping[int, float], at_most: int) -> int:
    """The fastest width, or a wider one where time was up while wider packs were still getting faster.

    What was not measured is foreseen: each further slot takes as long as the last ones did. Where that is cheap, all
    slots are offered, otherwise no more than twice as many as were measured.

    Args:
        rates: Tokens a second by width, in ascending order; width 1 is among them.
        at_most: Slots that fit.
    """
    *_, before, last = [1, *rates]
    if len(rates) > 1 and rates[last] >= RISING * rates[before]:
        further_s = (last / rates[last] - before / rates[before]) / (last - before)
        return at_most if further_s * rates[1] <= CHEAP else min(at_most, 2 * last)
    return max((width for width in rates if rates[width] >= NEVER_BELOW * rates[1]), key=rates.__getitem__)


def _widths(at_most: int) -> list[int]:
    """1, 2, 4 ... and the most."""
    return sorted({*(2**power for power in range(at_most.bit_length())), at_most})


def _step_s(trainee: Trainee, batch: Batch, width: int) -> float:
    """Seconds of a step on the slowest rank: the same number on all."""
    start = perf_counter()
    mismatched = [batch] if trainee.needs_point else []  # as many tokens
    train_step(trainee, [Share(slot, 0, 0.0, [batch], mismatched=mismatched) for slot in range(width)])
    if trainee.device.type == "cuda":
        torch.cuda.synchronize(trainee.device)
    slowest: float = max(trainee.ranks.gather(perf_counter() - start))
    return slowest
