"""Bytes of a pack by its number of slots: few dry runs, and a straight line where they would take long.

The largest run of a group enters; estimates and the most slots that fit leave. Called by the sweep's planner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import Estimate, RankBytes

LINE = (1, 2)
"""Slots between which growth is taken as the growth of each further slot. A dry run costs a second of Python for a few
of them; beyond two, the line was within 2.1 % of the dry run of 32 slots of the 135M model, and between 4 and 8 within
2.0 % (rows of 512 tokens: 0.1 % either way)."""


@dataclass(frozen=True)
class SlotBytes:
    """What one more slot adds between steps.

    Args:
        adapter_bytes: The adapter.
        gradients_bytes: Its gradients.
        moments_bytes: The optimizer's two means.
    """

    adapter_bytes: int
    gradients_bytes: int
    moments_bytes: int

    @property
    def num_bytes(self) -> int:
        """All three."""
        return self.adapter_bytes + self.gradients_bytes + self.moments_bytes


class PackMemory:
    """Estimates of packs whose slots are all alike.

    Args:
        spec: The run in every slot.
        predict: `estimate_pack` on the base and device in question: the runs of a rank's slots enter.
        num_projections: Different random matrices of VeRA that the slots may have, at least 1: slots with the same ones
            share them.
    """

    def __init__(self, spec: RunSpec, predict: Callable[[list[RunSpec]], Estimate], num_projections: int = 1) -> None:
        self._spec, self._predict, self._num_projections = spec, predict, num_projections
        self._known: dict[int, Estimate] = {}

    @property
    def slot(self) -> SlotBytes:
        """What one slot holds between steps."""
        rank = self.at(1).ranks[0]
        return SlotBytes(rank.adapters_bytes, rank.gradients_bytes, rank.optimizer_bytes)

    def at(self, num_slots: int) -> Estimate:
        """The estimate of a rank that runs so many slots."""
        further = min(num_slots, self._num_projections) - 1
        alike = self._alike(num_slots)
        if not further or self._spec.adapter != "vera":
            return alike
        return replace(alike, ranks=tuple(_holding(rank, further * self._projection_bytes) for rank in alike.ranks))

    @cached_property
    def _projection_bytes(self) -> int:
        """What a second pair of random matrices adds."""
        other = self._spec.model_copy(update={"projection_prng_key": self._spec.projection_prng_key + 1})
        alike, unlike = self._alike(2).ranks[0], self._predict([self._spec, other]).ranks[0]
        return unlike.adapters_bytes - alike.adapters_bytes

    def _alike(self, num_slots: int) -> Estimate:
        low, high = LINE
        if num_slots <= high:
            if num_slots not in self._known:
                self._known[num_slots] = self._predict([self._spec] * num_slots)
            return self._known[num_slots]
        one, other = self._alike(low), self._alike(high)
        ranks = tuple(
            _on_line(first, second, (num_slots - high) / (high - low))
            for first, second in zip(one.ranks, other.ranks, strict=True)
        )
        return replace(other, trainable_parameters=num_slots * self.at(1).trainable_parameters, ranks=ranks)

    def most_slots(self, fits: Callable[[Estimate], bool], at_most: int) -> int:
        """The most slots of a rank that fit; 0 where none does.

        Args:
            fits: Whether a rank has the memory of an estimate; if of one, then of all with fewer slots.
            at_most: Slots wanted.
        """
        if fits(self.at(at_most)):
            return at_most
        most, too_many = 0, at_most
        while too_many - most > 1:
            middle = (most + too_many) // 2
            if fits(self.at(middle)):
                most = middle
            else:
                too_many = middle
        return most


def _holding(rank: RankBytes, num_bytes: int) -> RankBytes:
    """A rank that holds more beside its adapters."""
    held = ("adapters_bytes", "step_peak_bytes", "between_peak_bytes")
    return replace(rank, **{part: getattr(rank, part) + num_bytes for part in held})


def _on_line(low: RankBytes, high: RankBytes, beyond: float) -> RankBytes:
    """The point beyond two others, in units of their distance."""
    first, second = asdict(low), asdict(high)
    return RankBytes(**{part: round(second[part] + beyond * (second[part] - first[part])) for part in second})
