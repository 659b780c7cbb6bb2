"""Runs and packed sweeps that random faults strike for some minutes, each held against one that was left alone.

`make soak` starts it. The seed is printed; with the same one faults are drawn in the same order, though they do not
strike at the same instants. Ends with 0 where every round came to what the undisturbed one did.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.soak.deck import Deck
from tests.soak.place import Place, one_node, two_nodes
from tests.soak.rounds import Faults, train
from tests.soak.subjects import (
    ALONE,
    RUN_ALONE,
    STOPPING,
    STRUCK,
    Facts,
    Run,
    Sweep,
    is_sound,
    on_changing_nodes,
    write_subjects,
)
from tests.soak.tally import Tally

Opened = Callable[[], AbstractContextManager[Place]]


@dataclass(frozen=True)
class Kind:
    """A kind of round.

    Args:
        name: Of one.
        opened: Opens its place.
        subject: What is trained there.
        wanted: What that came to when it was left alone.
        deck: Says which fault is next.
        chance: Draws when and how it strikes.
    """

    name: str
    opened: Opened
    subject: Run | Sweep
    wanted: Facts
    deck: Deck
    chance: random.Random


def main() -> int:
    """Soak for as long as asked; 1 where a round ended otherwise than what was left alone."""
    asked = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    asked.add_argument("--minutes", type=float, default=20.0, help="of faults; the last round then comes to its end")
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="draws the faults")
    options = asked.parse_args()
    print(f"soak: seed {options.seed}, {options.minutes:g} minutes", flush=True)
    folder, tally = Path(tempfile.mkdtemp(prefix="raylora-soak-")), Tally()
    try:
        soak(folder, options.seed, 60 * options.minutes, tally)
    finally:
        print(tally.table())
    if tally.is_as_undisturbed:
        shutil.rmtree(folder)
        return 0
    print(f"soak: what was said and kept is in {folder}")
    return 1


def soak(folder: Path, seed: int, duration_s: float, tally: Tally) -> None:
    """Train one round after another, kind by kind, until the time is over."""
    write_subjects(folder)
    with one_node(folder) as one:
        kinds = _kinds(folder, one, seed)
        until, rounds = time.monotonic() + duration_s, Counter[str]()
        while time.monotonic() < until:
            kind = kinds.popleft()
            rounds[kind.name] += 1
            try:
                with kind.opened() as place:
                    tally.know(place.faults)
                    _round(folder, kind, place, f"{kind.name} {rounds[kind.name]}", until, tally)
            except pytest.skip.Exception as lacking:
                print(f"  {kind.name}: not on this machine: {lacking}", flush=True)
            else:
                kinds.append(kind)


def _kinds(folder: Path, one: Place, seed: int) -> deque[Kind]:
    """They take turns."""
    run, sweep, stopping = Run(), Sweep(STRUCK, ALONE), Sweep(STOPPING)
    alone = {RUN_ALONE: run, "sweep-alone": sweep, "stopping-alone": stopping}
    of_run, of_sweep, of_stopping = (train(one, subject, name).facts for name, subject in alone.items())
    if not (is_sound(of_run) and is_sound(of_sweep) and is_sound(of_stopping)):
        raise RuntimeError("what was left alone is nothing to hold others against: raylora is broken without faults")

    def kind(name: str, opened: Opened, subject: Run | Sweep, wanted: Facts) -> Kind:
        # The order of faults of one kind is the same however many rounds of others there were.
        deck, chance = (random.Random(f"{seed} {name} {use}") for use in ("deck", "chance"))
        return Kind(name, opened, subject, wanted, Deck(deck), chance)

    return deque(
        [
            kind("run", lambda: nullcontext(one), run, of_run),
            kind("sweep", lambda: nullcontext(one), sweep, of_sweep),
            kind("sweep that stops trials", lambda: nullcontext(one), stopping, of_stopping),
            kind("run on two nodes", lambda: two_nodes(folder), on_changing_nodes(), of_run),
            kind("sweep on two nodes", lambda: two_nodes(folder), sweep, of_sweep),
        ]
    )


def _round(folder: Path, kind: Kind, place: Place, name: str, until: float, tally: Tally) -> None:
    print(f"  {name}", flush=True)
    faults = Faults(kind.deck, kind.chance, until, tell=lambda fault: print(f"    {fault}", flush=True))
    outcome = train(place, kind.subject, name.replace(" ", "-"), faults)
    (folder / f"{name}.log").write_text(outcome.said)
    lost = kind.subject.differing(outcome.facts, kind.wanted)
    passed_over = kind.deck.take_passed_over()
    tally.add(outcome.struck, lost, outcome.in_vain, passed_over)
    for fault, times in outcome.in_vain.items():
        print(f"    in vain: {fault}" + (f", {times} times" if times > 1 else ""), flush=True)
    for fault in sorted(passed_over):
        print(f"    found nothing to strike: {fault}", flush=True)
    print(f"    other than undisturbed: {', '.join(lost)}" if lost else "    as undisturbed", flush=True)


if __name__ == "__main__":
    sys.exit(main())
