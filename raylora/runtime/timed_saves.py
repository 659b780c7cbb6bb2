"""When a pack saves its slots on its own, for workers that are restarted: by time, as no trial asks for it.

Specs of the pack's runs enter, commands leave. Called by rank 0 of a pack.
"""

from __future__ import annotations

from collections.abc import Mapping

from raylora.runtime.desk_messages import Save
from raylora.spec.run import RunSpec

SAVE_S = 120.0
"""What a crash may cost, at most. Saves of a short sweep would take longer than the steps that they keep."""


def timed_saves(specs: Mapping[str, RunSpec], passed_s: float) -> list[Save]:
    """Saves that are due: of every run that has no `save_steps` of its own.

    Args:
        specs: By lease.
        passed_s: Since the pack began, or since the last such saves.
    """
    if passed_s < SAVE_S:
        return []
    return [Save(lease, is_awaited=False) for lease, spec in specs.items() if spec.save_steps is None]
