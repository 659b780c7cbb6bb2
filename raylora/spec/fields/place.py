"""Where a run happens: workers and strategy, Ray, tracking, storage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator

from raylora.spec.fields.part import Address, Flag, NonNegativeInt, Number, Part, PositiveFloat, PositiveInt, Text


class DistributedSpec(Part):
    """Workers and how the base is placed on them."""

    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """`ddp` (every worker holds the base), `fsdp` (FSDP2 shards it) or `deepspeed` (ZeRO)."""

    zero_stage: Annotated[Literal[1, 2, 3], Number] = 3
    """ZeRO stage of `deepspeed`: 1 shards optimizer state, 2 gradients too, 3 the base."""

    cpu_offload: Flag = False
    """Keep the sharded base (`fsdp`, ZeRO-3) or the optimizer state (ZeRO-1, ZeRO-2) of a GPU run in host memory."""

    num_workers: PositiveInt = 1
    """Ray Train workers, one model replica or shard each."""

    min_workers: PositiveInt | None = None
    """Fewest workers that a run goes on with when it loses some or the cluster has no room for more; it grows again when there is room, and every step has the same rows throughout. As many as `num_workers` where absent. `num_workers: [1, 2]` says both. Packs of a sweep keep their number."""

    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores reserved for each worker; its thread count is the whole part of it."""

    gpus_per_worker: Annotated[Literal[0, 1], Number] | None = None
    """GPUs reserved for each worker; 1 where the cluster has GPUs and 0 otherwise where absent."""

    resources_per_worker: dict[str, PositiveFloat] | None = None
    """Further Ray resources each worker reserves, such as `{accelerator_type:H100: 0.001}`."""

    timeout_s: PositiveInt = 1800
    """Seconds after which a collective call that does not finish fails."""

    worker_timeout_s: PositiveInt = 120
    """Seconds after which a worker that does not answer, such as one that was stopped or whose machine hangs, counts as failed."""

    max_failures: NonNegativeInt | None = None
    """Restarts of the worker group from the last checkpoint after a worker's failure, and as many again after nodes were taken back; none for a run, three for one with `min_workers`, and one for a pack of a sweep where absent. An error that would come again, such as a loss of NaN, ends the run at once."""

    @model_validator(mode="before")
    @classmethod
    def _fewest_and_most(cls, values: Any) -> Any:
        """Read `num_workers: [1, 2]`, which a run that is resumed elsewhere may set anew."""
        asked = values.get("num_workers") if isinstance(values, dict) else None
        if not isinstance(asked, list | tuple) or len(asked) != 2:
            return values
        if all(type(number) is int and number > 0 for number in asked):
            return {**values, "min_workers": asked[0], "num_workers": asked[1]}
        return values


class RaySpec(Part):
    """Which Ray cluster."""

    address: Address | None = None
    """Address of a running cluster, or `auto` for the one that this machine is a node of, where `RAY_ADDRESS` names no other. Where absent: `RAY_ADDRESS`, and then a local Ray started for the run."""

    forward_env: tuple[Text, ...] = ()
    """Names of further environment variables handed to the workers of a cluster. Storage, hub and proxy variables always are; nothing else is. A file that one of them names, such as `AWS_CONFIG_FILE`, must be on every node. Workers of a Ray started for the run keep of the others what the system and numerical libraries read (`PATH`, `LC_*`, `CUDA_*` ...)."""


class TrackingSpec(Part):
    """Where MLflow keeps the run."""

    uri: Address | None = None
    """MLflow tracking URI; `MLFLOW_TRACKING_URI`, and then SQLite in raylora's home, where absent."""

    experiment: str = "raylora"
    """MLflow experiment."""

    artifact_uri: Address | None = None
    """Where a new experiment keeps artifacts, such as `s3://bucket/mlflow`; the server's own default where absent."""

    system_metrics: Flag = True
    """Log use of CPU, memory, disk, network and GPUs of the machine that runs the command; workers on other machines are not sampled."""


class StorageSpec(Part):
    """Where adapters and checkpoints are kept."""

    uri: Address | None = None
    """Folder or `s3://bucket/prefix`; `store` in raylora's home where absent."""

    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept, beside the one with the lowest validation loss of those that were validated at their own step; others are deleted."""
