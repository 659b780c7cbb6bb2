"""What a cluster and this machine have to offer."""

from __future__ import annotations

from raylora.sweep.planning.offer import Free, of_nodes, this_machine
from raylora.sweep.planning.width import usable_bytes


def test_an_offer_counts_workers_and_their_memory() -> None:
    resources = {"wide": {"CPU": 4.0, "memory": 64e9}, "silent": {"CPU": 64.0}, "narrow": {"CPU": 1.0}}
    nodes = [{"NodeID": name, "Resources": of_node} for name, of_node in resources.items()]
    offer = of_nodes(nodes, {"wide": Free(8 * 10**9, 10**9), "narrow": Free(10**9, 0)})
    assert len(offer.nodes) == 2
    assert offer.num_workers({"CPU": 2.0}) == 2
    assert offer.bytes_per_worker({"CPU": 2.0}, 1) == 8 * 10**9
    assert offer.bytes_per_worker({"CPU": 2.0}, 2) == 4 * 10**9
    gpu = of_nodes([{"NodeID": "a", "Resources": {"CPU": 8.0, "GPU": 2.0}}], {"a": Free(10**11, 80 * 10**9)})
    assert gpu.has_gpus and not offer.has_gpus
    assert gpu.bytes_per_worker({"CPU": 1.0, "GPU": 1.0}, 2) == 80 * 10**9
    assert usable_bytes(80 * 10**9, "cuda") < 72 * 10**9


def test_this_machine_offers_something() -> None:
    (node,) = this_machine().nodes
    assert node.resources["CPU"] >= 1 and node.host_bytes > 0
