"""Whether inputs that cannot be read are a run's own misfortune: they are, where the store of all runs can be read.

A key that has expired, or an S3 that is silent, keeps every run from its inputs: no trial is to fail for it. Called by
what packs do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raylora.errors import InputError
from raylora.store.contract import Store
from raylora.store.fence import FOLDER


@contextmanager
def faulted_alone(store: Store) -> Iterator[None]:
    """Let through what is wrong with inputs, if the store of all runs can be read.

    Args:
        store: Of all runs.

    Raises:
        UnusableStoreError: It cannot, so that the inputs are not at fault.
    """
    try:
        yield
    except InputError:
        store.keys(FOLDER)  # a list: refused with words, where a look at one object is refused without
        raise
