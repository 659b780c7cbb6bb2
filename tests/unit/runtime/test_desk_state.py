"""What the desk notes of one lease."""

from __future__ import annotations

from typing import Any

from raylora.runtime.cluster.desk_messages import Report, ReportKind
from raylora.runtime.pack.desk_state import Claim, Tenant


def at(step: int, kind: ReportKind) -> Report:
    return Report("lease", kind, step, {"uri": f"at-{step}"})


def test_a_checkpoint_that_was_on_its_way_is_no_answer():
    spec: Any = None
    tenant = Tenant(Claim("lease", 0, spec, "run", "key"), ("lease",))
    tenant.saving = True
    tenant.keep(at(3, "kept"))
    assert tenant.saving
    assert tenant.start_from == "at-3"
    tenant.keep(at(4, "saved"))
    assert not tenant.saving
    tenant.keep(at(2, "kept"))
    assert tenant.start_from == "at-4", "what is told late changes nothing"


def test_an_answer_of_a_slot_that_went_back_counts():
    """Its last checkpoint was damaged, or its driver forgot it."""
    spec: Any = None
    tenant = Tenant(Claim("lease", 0, spec, "run", "key", told_step=9), ("lease",))
    tenant.saved, tenant.saving = ("at-8", 8), True
    tenant.keep(at(5, "saved"))
    assert (tenant.saving, tenant.start_from) == (False, "at-5")
