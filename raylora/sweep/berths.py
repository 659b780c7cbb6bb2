"""What each kind of pack of a sweep is to be: planned from memory once, noted for every run that is drawn.

A sweep enters; berths by key leave, which the fleet opens packs by. Called by the launcher.
"""

from __future__ import annotations

from dataclasses import dataclass

import ray

from raylora.errors import InputError
from raylora.spec.run import RunSpec
from raylora.spec.sweep import SweepSpec
from raylora.sweep.trials import ALONE, SweepTrials


@dataclass(frozen=True)
class Berth:
    """What runs of one key need.

    Args:
        spec: As large as any of them.
        num_slots: Runs at once at most.
        calibrates: Whether the pack may offer fewer slots, where this machine is faster with fewer.
    """

    spec: RunSpec
    num_slots: int
    calibrates: bool


class Berths:
    """The berths of one sweep.

    Args:
        spec: The sweep.
        trials: How its trials are made into runs.
        most_at_once: Runs that may have slots at the same time, however many fit.
    """

    def __init__(self, spec: SweepSpec, trials: SweepTrials, most_at_once: int) -> None:
        self._spec, self._trials = spec, trials
        self._widths: dict[str, int] = {}
        self._largest: dict[str, RunSpec] = {}
        self.by_key: dict[str, Berth] = {}
        self.num_at_once = min(spec.num_configurations * spec.repeats, most_at_once)
        """Runs at once; fewer after :meth:`plan` where fewer fit."""

    @property
    def may_be_fewer(self) -> bool:
        """Whether packs may offer fewer slots than fit: nobody said how many, and no repeats need theirs at once."""
        return self._spec.slots is None and self._spec.repeats == 1

    def plan(self) -> None:
        """Find how many runs fit side by side on the connected cluster.

        Raises:
            InputError: The repeats of a trial do not.
        """
        from raylora.model.source import base_config
        from raylora.sweep.offer import of_nodes, this_machine
        from raylora.sweep.plan import plan_sweep

        spec, nodes = self._spec, ray.nodes()
        plan = plan_sweep(spec, of_nodes(nodes) if len(nodes) > 1 else this_machine(), base_config, foretells=False)
        num_slots = 0
        for group in plan.groups:
            if group.width.num_slots < spec.repeats:
                raise InputError(
                    f"repeats: the {spec.repeats} runs of a trial train side by side, and there is room for "
                    f"{group.width.num_slots} ({group.why_alone or group.width.why_so_many}); set repeats: 1, or make "
                    "room for them"
                )
            whole_trials = max(1, group.width.num_slots // spec.repeats) * spec.repeats
            num_slots += (1 if group.why_alone else whole_trials) * group.num_packs
            if group.why_alone is None:
                self._widths[group.key], self._largest[group.key] = whole_trials, group.largest
            else:
                self._widths.setdefault(group.key, 1)  # a group that shares may have the same key
        self.num_at_once = max(spec.repeats, min(self.num_at_once, num_slots))

    def note(self, spec: RunSpec) -> None:
        """Note what a run needs.

        Args:
            spec: The run; it may fit into what others need.
        """
        key = self._trials.key(spec)
        width = 1 if key.startswith(ALONE) else self._widths.get(key, max(self._widths.values()))
        self.by_key.setdefault(key, Berth(self._largest.get(key, spec), width, self.may_be_fewer))
