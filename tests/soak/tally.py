"""What all rounds came to: a row for each fault, how often it struck or could not, and what was lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from benchmarks.tables import table


class Tally:
    """Counts faults and rounds."""

    def __init__(self) -> None:
        self._struck: Counter[str] = Counter()
        self._lost: dict[str, set[str]] = defaultdict(set)
        self._in_vain, self._passed_over = Counter[str](), Counter[str]()
        self._num_rounds, self._num_apart = 0, 0

    @property
    def is_as_undisturbed(self) -> bool:
        """Whether every round was, of which there must be one."""
        return self._num_rounds > 0 and self._num_apart == 0

    def know(self, faults: Iterable[str]) -> None:
        """Faults that may strike have a row, also if none does."""
        for name in faults:
            self._struck[name] += 0

    def add(
        self,
        struck: Mapping[str, int],
        lost: Iterable[str],
        in_vain: Mapping[str, int],
        passed_over: Iterable[str],
    ) -> None:
        """Add a round.

        Args:
            struck: How often each fault did.
            lost: Names of what was not as undisturbed; each fault of the round may have been the cause.
            in_vain: How often each fault was let loose and did not strike.
            passed_over: Faults whose turn came when there was nothing for them to strike, until the round's end.
        """
        names = set(lost)
        self._num_rounds += 1
        self._num_apart += bool(names)
        self._in_vain.update(in_vain)
        self._passed_over.update(set(passed_over))
        for name, times in struck.items():
            self._struck[name] += times
            if times:
                self._lost[name] |= names

    def table(self) -> str:
        """As Markdown, with a line below it that counts the rounds."""
        rows = [
            (name, str(times), str(self._in_vain[name]), str(self._passed_over[name]), self._words(name))
            for name, times in self._struck.items()
        ]
        end = f"soak: rounds {self._num_rounds}, of which other than undisturbed {self._num_apart}"
        return table(("injected", "how often", "in vain", "rounds it found nothing in", "lost"), rows) + end

    def _words(self, name: str) -> str:
        if self._struck[name]:
            return ", ".join(sorted(self._lost[name])) or "nothing"
        if self._in_vain[name]:
            return "it did not strike"
        return "it found nothing to strike" if self._passed_over[name] else "its turn did not come"
