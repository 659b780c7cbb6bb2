"""How adapters are to be combined: a method, weights, and what a method takes beside them.

What was asked enters; every problem of it leaves, before an adapter is read. Called by the command `combine`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raylora.errors import InputError

METHODS = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")
"""As PEFT's `add_weighted_adapter` calls them."""

FACTOR_WISE = ("linear", "ties", "dare_linear", "dare_ties")
"""Methods that work on A and on B, each by itself: the factors must be of one rank."""

SPARSE = ("ties", "dare_linear", "dare_ties")
"""Methods that keep a part of the values."""

DENSITY = 0.5


@dataclass(frozen=True)
class Recipe:
    """How adapters are combined.

    Args:
        method: One of `METHODS`.
        weights: What each adapter is multiplied by, in their order: finite, not all 0.
        density: Part of the values that a method of `SPARSE` keeps, above 0 up to 1; `DENSITY` where ``None``.
        max_rank: Rank to which `svd` truncates, at least 1; the largest of the adapters' own where ``None``.
        seed: Decides which values `dare_linear` and `dare_ties` drop.
    """

    method: str
    weights: tuple[float, ...]
    density: float | None = None
    max_rank: int | None = None
    seed: int = 0

    @property
    def kept(self) -> float:
        """Part of the values that is kept."""
        return DENSITY if self.density is None else self.density

    def problems(self, num_adapters: int) -> list[InputError]:
        """Everything that is wrong with it.

        Args:
            num_adapters: How many adapters were given.
        """
        found = []
        if num_adapters < 2:
            found.append(f"combine: got {num_adapters} adapter; give two or more of one base")
        if self.method not in METHODS:
            found.append(f"--method: got {self.method!r}; allowed: {', '.join(METHODS)}")
        if (wrong := self._wrong_weights(num_adapters)) is not None:
            found.append(f"--weights: {wrong}")
        if (wrong := self._wrong_density()) is not None:
            found.append(f"--density: {wrong}")
        if (wrong := self._wrong_rank()) is not None:
            found.append(f"--max-rank: {wrong}")
        return [InputError(problem) for problem in found]

    def _wrong_weights(self, num_adapters: int) -> str | None:
        if len(self.weights) != num_adapters:
            return f"got {len(self.weights)} for {num_adapters} adapters; give one for each, such as 1,0.5 for two"
        if not all(map(math.isfinite, self.weights)):
            return f"got {', '.join(f'{weight:g}' for weight in self.weights)}; allowed: finite numbers"
        if not any(self.weights):
            return "all are 0, so nothing would be left; give at least one that is not"
        return None

    def _wrong_density(self) -> str | None:
        if self.density is None:
            return None
        if not 0 < self.density <= 1:  # NaN is neither
            return f"got {self.density:g}; allowed: above 0, up to 1"
        if self.method in METHODS and self.method not in SPARSE:
            return f"{self.method} keeps every value; leave it out, or use one of {', '.join(SPARSE)}"
        return None

    def _wrong_rank(self) -> str | None:
        if self.max_rank is None:
            return None
        if self.max_rank < 1:
            return f"got {self.max_rank}; allowed: 1 or more"
        if self.method in METHODS and self.method != "svd":
            return f"{self.method} truncates nothing; leave it out, or use --method svd"
        return None


def read_weights(text: str | None, num_adapters: int) -> tuple[float, ...]:
    """Read weights as they were typed.

    Args:
        text: Numbers with commas between them; ``None`` for 1 each.
        num_adapters: How many adapters were given.

    Raises:
        InputError: Something else than a number is among them.
    """
    if text is None:
        return (1.0,) * num_adapters
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(f"--weights: got {text!r}; allowed: a number for each adapter, such as 1,0.5") from error
