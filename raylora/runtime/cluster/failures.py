"""What failed, out of Ray's wrappings: one readable error enters the user's sight.

Called by whatever of this room waits for Ray.
"""

from __future__ import annotations

from ray.exceptions import RayActorError, RayError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from raylora.errors import LostClusterError, RayloraError, RunFailedError, WorkerError

RESTARTS = "distributed.max_failures restarts the workers from the last checkpoint that often"


def worker_error(error: WorkerGroupError) -> RayloraError:
    """The most telling of the workers' errors, with its rank: one rank's failure makes the others fail as well."""
    causes = {rank: cause(failure) for rank, failure in error.worker_failures.items()}
    rank, first = min(causes.items(), key=lambda item: (_telling(item[1]), item[0]))
    if isinstance(first, RayloraError):
        first.args = (f"rank {rank}: {first}",)
        return first
    if isinstance(first, RayActorError):
        return WorkerError(
            f"rank {rank}: its process died without a word: killed, out of memory, or its node was lost; {RESTARTS}"
        )
    if isinstance(first, WorkerHealthCheckTimeoutError):
        return WorkerError(
            f"rank {rank}: it did not answer for as long as distributed.worker_timeout_s: stopped, or its node hangs; "
            f"{RESTARTS}"
        )
    return WorkerError(f"rank {rank}: {type(first).__name__}: {gist(first)}")


def lost_contact(error: RayError) -> RunFailedError:
    """The line to the workers is gone, or never was."""
    if "No module named" in str(error):
        return RunFailedError(
            f"Ray's processes lack a module ({str(error).strip().splitlines()[-1]}); install the same raylora on every "
            "node of the cluster"
        )
    return LostClusterError(f"the contact to the workers is lost: {gist(error)}")


def cause(error: BaseException) -> BaseException:
    """What happened, out of Ray's wrappings."""
    for wrapping in ("_base_exc", "health_check_failure", "controller_failure", "cause"):
        inner = getattr(error, wrapping, None)
        if isinstance(inner, BaseException) and inner is not error:
            return cause(inner)
    return error


def gist(error: BaseException) -> str:
    """The first line of an error; Ray's logs have the rest."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _telling(failure: BaseException) -> int:
    """Lower says more: an error of ours, a process that died or is silent, and what the others saw of it."""
    is_gone = isinstance(failure, RayActorError | WorkerHealthCheckTimeoutError)
    return 0 if isinstance(failure, RayloraError) else 1 if is_gone else 2
