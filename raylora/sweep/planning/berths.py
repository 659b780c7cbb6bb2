"""What each kind of pack of a sweep is to be: planned from memory once, noted for every run that is drawn.

A sweep enters; berths by key leave, which the fleet opens packs by. Called by the launcher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raylora.errors import InputError
from raylora.runtime.cluster.cluster import check_places
from raylora.spec.fields.repeats import whole_trials
from raylora.spec.packing import pack_key, why_alone
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.planning.likely import likely_runs
from raylora.sweep.steering.draws import draws_at_once
from raylora.sweep.steering.trials import ALONE, SweepTrials

if TYPE_CHECKING:
    from raylora.sweep.planning.plan import Plan


@dataclass(frozen=True)
class Berth:
    """What runs of one key need.

    Args:
        spec: As large as any of them.
        family: Packs of one family are counted together: those of one key, or those of runs that share with nobody and
            were planned together.
        num_packs: Packs of the family at once, at most.
        num_slots: Runs at once at most, in one pack.
        slots_stay_on_ranks: Each worker trains runs of its own, instead of its part of every run's rows.
        calibrates: Whether the pack may offer fewer slots, where this machine is faster with fewer.
        repeats: Runs of a trial, which train side by side: a pack offers a multiple of so many slots.
        likely: Runs like those that will come, repeats beside one another; no more than slots.
    """

    spec: RunSpec
    family: str
    num_packs: int
    num_slots: int
    slots_stay_on_ranks: bool
    calibrates: bool
    repeats: int = 1
    likely: tuple[RunSpec, ...] = ()


class Berths:
    """The berths of one sweep.

    Args:
        spec: The sweep.
        trials: How its trials are made into runs.
        most_at_once: Runs that may have slots at the same time, however many fit.
    """

    def __init__(self, spec: SweepSpec, trials: SweepTrials, most_at_once: int) -> None:
        self._spec, self._trials = spec, trials
        self._planned: dict[str, Berth] = {}
        self.by_key: dict[str, Berth] = {}
        self.num_at_once = min(draws_at_once(spec) * spec.repeats, most_at_once)
        """Runs at once; fewer after :meth:`plan` where fewer fit."""

    @property
    def may_be_fewer(self) -> bool:
        """Whether packs may offer fewer slots than fit: nobody said how many."""
        return self._spec.slots is None

    def plan(self) -> None:
        """Find how many runs fit side by side on the connected cluster.

        Raises:
            InputError: The repeats of a trial do not, or there is no place for the workers of some trials.
        """
        from raylora.model.source.source import base_config
        from raylora.sweep.planning.plan import plan_sweep
        from raylora.sweep.planning.probe import connected

        plan = plan_sweep(self._spec, connected(), base_config, foretells=False)
        for group in plan.groups:
            check_places(group.largest)
        self.take(plan)

    def take(self, plan: Plan) -> None:
        """Take up a plan.

        Args:
            plan: Of the sweep.

        Raises:
            InputError: The repeats of a trial do not fit side by side.
        """
        spec, num_slots = self._spec, 0
        runs = [(_family(run), run) for run in likely_runs(spec)]
        for group in plan.groups:
            width = group.width
            if width.num_slots < spec.repeats:
                raise InputError(
                    f"repeats: the {spec.repeats} runs of a trial train side by side, and there is room for "
                    f"{width.num_slots} ({group.why_alone or width.why_so_many}); set repeats: 1, or make room for them"
                )
            of_pack = whole_trials(width.num_slots, spec.repeats)
            num_slots += of_pack * group.num_packs
            family, stay = _family(group.largest), width.slots_stay_on_ranks
            likely = [run for of, run in runs if of == family for _ in range(spec.repeats)][:of_pack]
            planned = Berth(group.largest, family, group.num_packs, of_pack, stay, self.may_be_fewer, spec.repeats)
            self._planned[family] = replace(planned, likely=tuple(likely))
        self.num_at_once = max(spec.repeats, min(self.num_at_once, num_slots))

    def note(self, spec: RunSpec) -> None:
        """Note what a run needs.

        Args:
            spec: The run; it may fit into what others need.
        """
        key, family = self._trials.key(spec), _family(spec)
        if key in self.by_key:
            return
        berth = self._planned.get(family) or self._unplanned(spec, family)
        self.by_key[key] = replace(berth, spec=spec) if key.startswith(ALONE) else berth

    def _unplanned(self, spec: RunSpec, family: str) -> Berth:
        """For a run that is like none of those foreseen."""
        if why_alone(spec) is not None:
            return Berth(spec, family, 1, 1, False, False)
        widest = max((planned.num_slots for planned in self._planned.values()), default=1)
        stay = widest >= spec.distributed.num_workers > 1
        return Berth(spec, family, 1, widest, stay, self.may_be_fewer, self._spec.repeats)


def _family(spec: RunSpec) -> str:
    """What a plan groups runs by."""
    return f"{pack_key(spec)}{why_alone(spec) or ''}"
