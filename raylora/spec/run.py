"""One training run as asked: its fields, checked against each other, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import model_validator

from raylora.errors import SpecError
from raylora.spec.fields.run import RunFields
from raylora.spec.rules.run import broken_rules

NOT_DIGESTED = frozenset({
    "run_name",
    "ray",
    "tracking",
    "storage",
    "distributed",
    "dataset_num_proc",
    "logging_steps",
    "save_steps",
    "sample_prompts",
    "sample_max_new_tokens",
})  # fmt: skip
"""Fields that say where a run happens, how often it reports and what it shows, not what is trained.

Of `distributed` only `num_workers` counts: it decides how many rows a step sees. Strategies are held to the same
losses, so a run that goes on under another strategy keeps its digest.
"""


class RunSpec(RunFields):
    """A validated, frozen training run."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        """Raise SpecError with every rule that the fields break together."""
        if problems := broken_rules(self):
            raise SpecError(problems)
        return self

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what decides the result: equal digests ask for the same adapter.

        Every field counts but those of `NOT_DIGESTED`. The order and spelling of the file, overrides and aliases do
        not matter: the digest is taken of the validated values as canonical JSON.
        """
        asked = self.model_dump(mode="json", exclude=set(NOT_DIGESTED))
        asked["num_workers"] = self.distributed.num_workers
        return _digest(asked)

    def lasting_digest(self, mutable: Collection[str] = ()) -> str:
        """SHA-256, in hexadecimal, of what a run keeps from its first step on, wherever it goes on.

        As `digest`, but workers and accumulation count by the rows of a step: a run may go on with other workers, for
        which accumulation makes up. Fields at their defaults do not count, so that one which a later version adds
        changes nothing.

        Args:
            mutable: Further fields that do not count.
        """
        left_out = {*NOT_DIGESTED, "gradient_accumulation_steps", *mutable}
        kept = self.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        return _digest(kept | {"rows_per_step": self.rows_per_step})


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
