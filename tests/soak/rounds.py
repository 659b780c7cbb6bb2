"""A round: one run or sweep that faults strike until it has come to its end, however often it has to be resumed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from raylora.store.blob import open_store
from tests.cluster.command import Ended, Running, wait_until
from tests.cluster.stopped import check_as_before
from tests.soak.deck import Deck
from tests.soak.place import Place
from tests.soak.scene import Scene, Struck
from tests.soak.subjects import LEAVES_NOTHING, Facts, Run, Sweep, holds

MOST_STARTS, MOST_STRIKES = 40, 8
"""After so many it comes to its end undisturbed."""
BETWEEN_S = (3.0, 12.0)
"""Between two strikes."""
BAD_INPUT = 2
"""Exit code of a command that was told wrong things, which no fault may look like."""


@dataclass
class Outcome:
    """What came of a round.

    Args:
        facts: What is compared.
        said: All that its commands said.
        struck: How often each fault did.
        in_vain: How often each was let loose and did not strike.
    """

    facts: Facts
    said: str
    struck: dict[str, int] = field(default_factory=dict)
    in_vain: Counter[str] = field(default_factory=Counter)


@dataclass
class Faults:
    """What strikes in a round.

    Args:
        deck: Says which fault is next.
        chance: Draws when and how.
        until: When no more strike, on the monotonic clock.
        tell: Takes the name of each as it strikes.
    """

    deck: Deck
    chance: random.Random
    until: float
    tell: Callable[[str], None]


def train(place: Place, subject: Run | Sweep, name: str, faults: Faults | None = None) -> Outcome:
    """Train to the end.

    Args:
        place: Where.
        subject: What.
        name: Of its store and its experiment, which nobody else has.
        faults: What strikes it; nothing where absent.

    Raises:
        RuntimeError: It did not end, or ended as no fault may end it.
    """
    place.head.forget_workers()
    before, store = place.head.in_use(), f"{place.store}/{name}"
    words = subject.words(store, name, is_left_alone=faults is None)
    struck: list[tuple[str, Struck]] = []
    scene = Scene(open_store(store), faults.chance if faults else random.Random(), place.command.start(*words))
    try:
        while (ended := _ended(scene, place, faults, struck)).code != 0:
            if ended.code == BAD_INPUT or len(scene.ended) == MOST_STARTS:
                raise RuntimeError(f"{name} ended with {ended.code}: {ended.out[-1000:]}{ended.err[-3000:]}")
            known = subject.name_in(store)
            words = ["resume", known, "--store", store, "--json"] if known else words
            scene.go_on(place.command.start(*words))
    finally:
        scene.give_up()
    counts: dict[str, int] = dict(subject.struck_within(ended.json))
    in_vain = Counter[str]()
    for fault, has_struck in struck:
        times = has_struck()
        counts[fault] = counts.get(fault, 0) + times
        in_vain[fault] += times == 0
    facts = subject.facts(ended.json, place.mlflow, name)
    facts[LEAVES_NOTHING] = holds(lambda: check_as_before(place.head, before, ended))
    return Outcome(facts, scene.said, counts, +in_vain)


def _ended(scene: Scene, place: Place, faults: Faults | None, struck: list[tuple[str, Struck]]) -> Ended:
    """How a command ended that was struck meanwhile."""
    while faults is not None and scene.is_under_way and len(struck) < MOST_STRIKES:
        _wait(scene.running, faults.chance.uniform(*BETWEEN_S))
        if time.monotonic() > faults.until:
            break
        found = faults.deck.strike(place.faults, scene) if scene.is_under_way else None
        if found is not None:
            faults.tell(found[0])
            struck.append(found)
    return scene.end()


def _wait(running: Running, most_s: float) -> None:
    try:
        wait_until(lambda: running.process.poll() is not None, most_s)
    except TimeoutError:
        return
