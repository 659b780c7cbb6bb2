"""What the runs of a pack read, opened once for those that read the same. Called by the pack on every rank."""

from __future__ import annotations

from raylora.errors import RayloraError, UnusableStoreError
from raylora.runtime.job.inputs import Inputs
from raylora.runtime.job.whose_fault import faulted_alone
from raylora.spec.run import RunSpec
from raylora.store.contract import Store
from raylora.train.ranks import Ranks


class OpenInputs:
    """Inputs by what they are made of.

    Args:
        stores: The store of all runs.
    """

    def __init__(self, stores: Store) -> None:
        self._stores = stores
        self._by_key: dict[str, Inputs] = {}

    def of(self, spec: RunSpec) -> Inputs:
        """The inputs of a run.

        Raises:
            RayloraError: They cannot be read.
        """
        key = Inputs.key(spec)
        if key not in self._by_key:
            self._by_key[key] = Inputs.open(spec)
        return self._by_key[key]

    def why_unreadable(self, spec: RunSpec, ranks: Ranks) -> str | None:
        """Why some rank cannot read a run's inputs; a collective call with the same answer on every rank.

        Args:
            spec: The run.
            ranks: Those that are to read them.

        Raises:
            UnusableStoreError: Nothing can be read or kept here, whatever the run.
        """
        error = None
        try:
            with faulted_alone(self._stores):
                self.of(spec)
        except UnusableStoreError:
            raise
        except RayloraError as failure:
            error = str(failure)
        return next((found for found in ranks.gather(error) if found is not None), None)
