"""What a look at this machine's files tells of a run, before Ray is started and torch is imported.

A spec enters, a refusal or nothing leaves. All else is told by the preflight, which takes longer. Called by the
command line.
"""

from __future__ import annotations

from raylora.data.sources.source import look_here
from raylora.errors import DataError, InputError, ModelError, together
from raylora.model.source.local import local_path
from raylora.spec.run import RunSpec


def first_look(spec: RunSpec) -> None:
    """Find out that the base and the datasets are where the run says, as far as they are on this machine.

    Args:
        spec: The run.

    Raises:
        InputError: Some are not; all of them are told.
    """
    errors: list[InputError] = []
    if not spec.base_model.startswith("s3://"):
        try:
            local_path(spec.base_model)
        except ModelError as error:
            errors.append(error)
    for dataset in (*spec.datasets, *spec.test_datasets):
        try:
            look_here(dataset)
        except DataError as error:
            errors.append(error)
    if errors:
        raise together(errors)
