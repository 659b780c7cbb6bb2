"""Whoever steers, in a test: it gives orders to a desk in threads of its own, as Tune does through the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from raylora.runtime.cluster.desk_messages import Command, Report
from raylora.runtime.pack.desk import Desk
from raylora.runtime.pack.desk_state import Claim
from raylora.spec.run import RunSpec

PATIENCE_S = 30.0
SPEC = RunSpec.model_validate({"base_model": "org/model", "datasets": [{"path": "rows.jsonl"}]})


def claim(trial: int, key: str = "all", repeat: int = 0) -> Claim:
    return Claim(f"lease{trial}-{repeat}", trial, SPEC, f"run{trial}-{repeat}", key)


def metrics(trial: int, step: int) -> Report:
    return Report(f"lease{trial}-0", "metrics", step, {"eval_loss": 1.0, "num_tokens": step})


class Steering:
    """Orders and their answers.

    Args:
        desk: What is steered.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.pool = ThreadPoolExecutor(32)
        self.num_orders = 0
        self.open: list[Future[Any]] = []
        self.answers: list[Any] = []

    def order(self, call: Callable[[], Any]) -> Future[Any]:
        def carry_out() -> Any:
            self.desk.begin_order()
            return call()

        self.num_orders += 1
        future = self.pool.submit(carry_out)
        self.open.append(future)
        return future

    def lease(self, *claims: Claim) -> None:
        self.desk.lease(claims)

    def go(self, *leases: str) -> Future[Sequence[Report]]:
        return self.order(lambda: self.desk.go(leases))

    def settle(self) -> None:
        """Take in every answer there is, then say so."""
        self.open = [future for future in self.open if not future.done()]
        self.desk.settle(self.num_orders, len(self.open))

    def answer(self, future: Future[Any]) -> Any:
        """Settle, then wait for one answer."""
        self.settle()
        return future.result(PATIENCE_S)

    def exchange(self, pack: int, reports: Sequence[Report] = (), wait: bool = False) -> Future[Any]:
        """What a pack is told; one that waits asks again until it is told something."""

        def ask() -> list[Command]:
            commands = self.desk.exchange(pack, reports, wait)
            while wait and not commands:
                commands = self.desk.exchange(pack, (), wait)
            return commands

        return self.pool.submit(ask)


def told(commands: list[Command]) -> list[str]:
    return [f"{type(command).__name__} {getattr(command, 'lease', '')}".strip() for command in commands]


def started(steering: Steering, num_trials: int, num_slots: int = 8) -> list:
    """Trials at work in pack 0, and the future of each one's report."""
    steering.desk.open_pack(0, "all", num_slots)
    futures = []
    for trial in range(num_trials):
        steering.lease(claim(trial))
        futures.append(steering.go(f"lease{trial}-0"))
    steering.settle()
    commands = steering.exchange(0, wait=True).result(PATIENCE_S)
    assert told(commands) == [f"{word} lease{trial}-0" for word in ("Admit", "Go") for trial in range(num_trials)]
    return futures
