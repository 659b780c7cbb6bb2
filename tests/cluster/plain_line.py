"""The order in which simulated trials report. Its actor imports this file alone; it is light."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

PATIENCE_S = 100.0
"""Where Tune decides otherwise than over the pack, a trial waits for a turn that never comes; where it does not, for
the starts of others' processes."""


class Line:
    """Lets trials report in the order of a pack, the next one when Tune has decided about the last.

    Args:
        order: Kind and number of the trial, of each beginning and each report.
    """

    def __init__(self, order: Sequence[tuple[str, int]]) -> None:
        self.order = list(order)
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.is_out = False

    async def report(self, number: int) -> None:
        turn = self.waiting[number] = asyncio.get_running_loop().create_future()
        self._next()
        try:
            await asyncio.wait_for(turn, PATIENCE_S)
        except TimeoutError:
            raise TimeoutError(f"of {sorted(self.waiting)} none is {self.order[:1]}, whose turn it is") from None

    async def decided(self) -> None:
        self.is_out = False
        self._next()

    def _next(self) -> None:
        while self.order and not self.is_out and self.order[0][1] in self.waiting:
            kind, number = self.order.pop(0)
            if kind == "report":
                self.is_out = True
                self.waiting.pop(number).set_result(None)
