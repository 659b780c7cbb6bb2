"""The error tree. Every error a user can meet is one of these; the command line maps each to an exit code.

RayloraError
├── InputError            the user's words or files are wrong (exit code 2)
│   ├── SpecError         the configuration file, with all problems at once
│   ├── DataError         a dataset file, row or column
│   └── ModelError        the base model or the adapter's targets
├── StoreError            object storage refused, vanished or is full
│   ├── UnusableStoreError  it takes nothing from anybody: full, mute, or the key is no good
│   ├── MissingObjectError  there is no object of that name
│   ├── ExistingObjectError  there is one already, where one was to be made
│   └── CorruptObjectError  what is stored is not what was written
├── TrackingError         MLflow refuses, or does not answer before training starts
├── RunFailedError        training ended without a result (exit code 1)
│   ├── LostClusterError    what it ran on is gone; it can go on elsewhere
│   ├── NonFiniteLossError  a loss was NaN or Inf
│   └── WorkerError       a worker raised; carries its rank
└── InterruptedRunError   the user or the cluster asked to stop (exit code 130)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class RayloraError(Exception):
    """Base of every error raylora raises on purpose."""

    exit_code = 1
    about: Mapping[str, str] = {}
    """Names of what it happened to, for programs: `run_id` or `sweep_id`, once there is one."""


class InputError(RayloraError):
    """What the user asked cannot be done as asked; nothing was started or written."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration.

    Args:
        field: Dotted path of the field, for example ``distributed.num_workers``.
        message: What is wrong, what was given, what is allowed, what to do next.
        line: Line in the YAML file, counted from 1; ``None`` where it came from elsewhere.
    """

    field: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.field}: {self.message}"


class SpecError(InputError):
    """A configuration with one or more problems, all of them listed."""

    def __init__(self, problems: Sequence[Problem], source: str = "configuration") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        plural = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(f"{source}: {len(self.problems)} {plural}\n{lines}")

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.problems, self.source)


def together(errors: Sequence[InputError]) -> InputError:
    """Make one error of several that do not depend on each other; one alone stays what it is.

    Args:
        errors: At least one. Those of one class make one of that class.
    """
    if len(errors) == 1:
        return errors[0]
    classes = {type(error) for error in errors}
    kind = classes.pop() if classes in ({DataError}, {ModelError}) else InputError
    lines = (f"  {line}" for error in errors for line in str(error).splitlines())
    return kind("\n".join(("several problems", *lines)))


class DataError(InputError):
    """A dataset cannot be read, mapped, masked or split; the message names file and row."""


class ModelError(InputError):
    """The base model cannot be loaded, or the adapter does not fit it."""


class StoreError(RayloraError):
    """Object storage refused, vanished, is full, or holds something that does not verify."""


class UnusableStoreError(StoreError):
    """The whole store takes or gives nothing: it is full, does not answer, or refuses the key. No run is at fault."""


class MissingObjectError(StoreError):
    """There is no object of that name in the store."""


class ExistingObjectError(StoreError):
    """There is an object of that name already; another writer came first."""


class CorruptObjectError(StoreError):
    """What is stored is not what was written: a digest, a size or a format does not hold."""


class TrackingError(RayloraError):
    """MLflow refuses the run, or does not answer before training starts."""


class RunFailedError(RayloraError):
    """Training started and did not reach its end."""


class LostClusterError(RunFailedError):
    """The cluster is gone, or Ray Train's own process: nothing of the run had a part in that, and it can go on."""


class NonFiniteLossError(RunFailedError):
    """A loss was NaN or Inf; the message names the step, the rows and the last good checkpoint.

    Args:
        message: What was not finite, and where.
        row_ids: The rows it may have come from, for whoever knows their files.
    """

    def __init__(self, message: str, row_ids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.row_ids = tuple(row_ids)


class WorkerError(RunFailedError):
    """A worker raised; the message carries its rank and the original error."""


class InterruptedRunError(RayloraError):
    """Somebody asked to stop; where a run had begun, the message says what was saved of it and how it goes on."""

    exit_code = 130
