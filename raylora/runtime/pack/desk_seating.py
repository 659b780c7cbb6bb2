"""Which lease gets which slot: leases and packs enter, both are changed. Called by the desk, under its lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from raylora.runtime.cluster.desk_messages import Report
from raylora.runtime.pack.desk_state import Pack, Tenant


def place(tenants: Iterable[Tenant], packs: Mapping[int, Pack], refused: Mapping[str, str]) -> list[Report]:
    """Give free slots to waiting leases, in trial order; none overtakes another that fits the same packs.

    Args:
        tenants: All leases.
        packs: All packs.
        refused: Keys of packs that will not come, and why.

    Returns:
        Failures of leases that wait for those, and reports that an earlier process did not get to hear.
    """
    tenants = list(tenants)
    full: set[str] = set()
    failures: list[Report] = []
    for party in _waiting_parties(tenants):
        key = party[0].claim.key
        if key in refused:
            failures += [_failed(tenant, refused[key]) for tenant in party]
        elif key not in full and not _seat(party, packs):
            full.add(key)
    return failures + _untold(tenants)


def give_back(tenants: Iterable[Tenant], packs: Mapping[int, Pack]) -> None:
    """Give slots to leases of lost packs, in trial order: their orders were given long ago, and may be waited for.

    Args:
        tenants: All leases.
        packs: All packs.
    """
    full: set[str] = set()
    for party in _waiting_parties(tenants):
        key = party[0].claim.key
        if key not in full and all(tenant.returns for tenant in party) and not _seat(party, packs):
            full.add(key)


def is_late(tenant: Tenant, packs: Mapping[int, Pack]) -> bool:
    """Tell whether a lease is not where its trial was told that it is: its workers are gone, or not as far again.

    Args:
        tenant: The lease.
        packs: All packs.
    """
    is_gone = tenant.pack is None or packs[tenant.pack].away
    return not tenant.ended and (is_gone or tenant.repeating)


def next_report(untold: Iterable[Report], tenants: Mapping[str, Tenant], packs: Mapping[int, Pack]) -> Report | None:
    """Choose the report to pass on; those of late leases wait for saves of late ones, as if nothing had happened.

    Args:
        untold: Reports in order.
        tenants: All leases, by name.
        packs: All packs.
    """
    late = {lease for lease, tenant in tenants.items() if is_late(tenant, packs)}
    held = late if any(tenants[lease].saving for lease in late) else set[str]()
    return next((report for report in untold if report.lease not in held), None)


def num_waiting(tenants: Iterable[Tenant]) -> Counter[str]:
    """Leases without a slot, by the key of the packs they fit into."""
    return Counter(tenant.claim.key for tenant in tenants if tenant.waiting)


def lacking(tenants: Iterable[Tenant], packs: Mapping[int, Pack]) -> dict[str, int]:
    """How many slots leases that wait lack beside those that are free, by key.

    Args:
        tenants: All leases.
        packs: All packs.
    """
    free: Counter[str] = Counter()
    for pack in packs.values():
        free[pack.key] += pack.num_free
    return {key: count - free[key] for key, count in num_waiting(tenants).items() if count > free[key]}


def is_served(key: str, packs: Mapping[int, Pack]) -> bool:
    """Tell whether a pack of a key has slots, now or when it is back; one that was told to end has none.

    Args:
        key: Of leases.
        packs: All packs.
    """
    return any(pack.key == key and pack.num_slots for pack in packs.values())


def _failed(tenant: Tenant, reason: str) -> Report:
    tenant.end()
    return Report(tenant.claim.lease, "failed", tenant.told_step, {"error": reason})


def _untold(tenants: Iterable[Tenant]) -> list[Report]:
    """Reports of leases that have their slots, or need none any more, in trial order."""
    reports: list[Report] = []
    for tenant in sorted(tenants, key=lambda tenant: (tenant.claim.trial, tenant.claim.lease)):
        if tenant.untold is not None and not tenant.waiting:
            reports.append(tenant.untold)
            tenant.told_step, tenant.untold = tenant.untold.step, None
    return reports


def _waiting_parties(tenants: Iterable[Tenant]) -> list[list[Tenant]]:
    parties: dict[tuple[str, ...], list[Tenant]] = {}
    for tenant in tenants:
        if tenant.waiting:
            parties.setdefault(tenant.party, []).append(tenant)
    return sorted(parties.values(), key=lambda party: party[0].claim.trial)


def _seat(party: list[Tenant], packs: Mapping[int, Pack]) -> bool:
    """Give slots to all or to none, in the emptiest packs."""
    fitting = {number: pack for number, pack in packs.items() if pack.key == party[0].claim.key}
    if sum(pack.num_free for pack in fitting.values()) < len(party):
        return False
    for tenant in party:
        number, pack = max(fitting.items(), key=lambda item: (item[1].num_free, -item[0]))
        tenant.pack = number
        pack.leases.add(tenant.claim.lease)
        if tenant.returns:
            pack.give_back(tenant.first_commands())  # its orders were given long ago
        else:
            pack.hold(tenant.first_commands())
    return True
