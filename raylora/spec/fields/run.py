"""Every field of a run in one frozen model: flat, but for the parts that are raylora's own."""

from __future__ import annotations

from raylora.spec.fields.adapter import AdapterFields
from raylora.spec.fields.base import BaseFields
from raylora.spec.fields.data import DataFields
from raylora.spec.fields.place import DistributedSpec, RaySpec, StorageSpec, TrackingSpec
from raylora.spec.fields.task import TaskFields
from raylora.spec.fields.train import TrainFields


class RunFields(TrainFields, DataFields, AdapterFields, TaskFields, BaseFields):
    """A run whose fields are each right; whether they fit together is asked by `rules/run.py`."""

    run_name: str | None = None
    """Name shown in MLflow; the run's own id, as `raylora runs` lists it, where absent."""

    distributed: DistributedSpec = DistributedSpec()
    """Workers and how the base is placed on them."""

    ray: RaySpec = RaySpec()
    """Which Ray cluster."""

    tracking: TrackingSpec = TrackingSpec()
    """Where MLflow keeps the run."""

    storage: StorageSpec = StorageSpec()
    """Where adapters and checkpoints are kept."""

    @property
    def shards_base(self) -> bool:
        """Whether the strategy asks for each worker to hold only a part of the base."""
        return self.distributed.strategy == "fsdp" or self.is_under_zero3

    @property
    def is_under_zero3(self) -> bool:
        """Whether DeepSpeed cuts up all that lies in the model."""
        return self.distributed.strategy == "deepspeed" and self.distributed.zero_stage == 3

    @property
    def trains_base(self) -> bool:
        """Whether the base's own weights train, with no adapter beside them."""
        return self.adapter == "full"

    @property
    def starts_from_base(self) -> bool:
        """Whether the adapter starts as a part of the base's weight."""
        return str(self.init_lora_weights).startswith(("olora", "pissa"))

    @property
    def joins_texts(self) -> bool:
        """Whether a line of a batch has several texts that must not see each other: rows of a bin, or a pair's two."""
        return self.sample_packing or any(dataset.type == "preference" for dataset in self.datasets)

    @property
    def validates(self) -> bool:
        """Whether the run has validation rows."""
        return bool(self.test_datasets) or self.val_set_size > 0

    @property
    def seed_of_split(self) -> int:
        """What decides which rows `val_set_size` splits off."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def rows_per_step(self) -> int:
        """Rows (or bins) of one optimizer step over all workers."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.distributed.num_workers
