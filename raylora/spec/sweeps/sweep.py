"""One sweep as asked: a run and a space, checked against each other, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Self

from pydantic import model_validator

from raylora.errors import Problem, SpecError
from raylora.spec.fields.sweep import SweepFields
from raylora.spec.rules.rule import broken
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.rules import SWEEP_RULES
from raylora.spec.sweeps.space import configurations
from raylora.spec.sweeps.space_check import space_problems
from raylora.spec.text.yaml_text import dotted


class SweepSpec(SweepFields):
    """A validated, frozen sweep."""

    run: RunSpec
    """The run that trials start from: the path of its file, or its fields."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        """Raise SpecError with every rule broken, and every value of the space that makes no run."""
        flawed = list(space_problems(self.run, self.space))
        unknown = frozenset({"space"} if flawed else ())
        asked: SweepFields = self
        problems = [
            *broken(SWEEP_RULES, asked, unknown),
            *(Problem(dotted(("space", *path)), words) for path, words in flawed),
        ]
        if problems:
            raise SpecError(problems)
        return self

    @property
    def num_configurations(self) -> int:
        """Configurations tried, repeats not counted."""
        return self.num_trials or sum(1 for _ in configurations(self.space))

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what decides the result: equal digests ask for the same search.

        It holds the run's own digest and every field of the sweep but `slots`.
        """
        asked = self.model_dump(mode="json", exclude={"run", "slots"}) | {"run": self.run.digest}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
