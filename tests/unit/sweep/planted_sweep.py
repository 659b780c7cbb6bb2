"""A sweep whose packs are made up: what they would tell goes into real books, with real stores and a real MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from raylora.model.export import FOLDER
from raylora.spec.sweeps.sweep import SweepSpec
from raylora.spec.sweeps.trial import trial_spec
from raylora.store.contract import Store
from raylora.store.manifest import publish
from raylora.store.runs import run_store
from raylora.store.sweeps import SweepRecord, new_sweep, read_sweep
from raylora.sweep.books import Books
from raylora.tracking.inputs import DatasetUse
from raylora.tracking.lineage import lineage
from raylora.tracking.sweep_tracker import SweepTracker
from raylora.train.events import Event, EventKind

SLOTS = 4
TOKENS = 32
USE = DatasetUse("d.jsonl", "s3://b/d.jsonl", "d" * 64, "training", 10, 100)


def sweep_spec(experiment: str, uri: str | None = None, **fields: Any) -> SweepSpec:
    """A sweep over rank and learning rate."""
    return SweepSpec(
        run={
            "base_model": "m",
            "datasets": [{"path": "d.jsonl"}],
            "val_set_size": 4,
            "tracking": {"experiment": experiment, "uri": uri, "system_metrics": False},
        },
        space={"lora_r": {"choice": [4, 8]}, "learning_rate": {"loguniform": [1e-5, 1e-2]}},
        **({"num_trials": 16, "budget": {"steps": 6}, "report_steps": 2} | fields),
    )


def new_record(spec: SweepSpec) -> SweepRecord:
    """A sweep that has just been asked for."""
    return new_sweep(spec.model_dump(mode="json"))


def open_books(store: Store, spec: SweepSpec, record: SweepRecord, spool: Path) -> tuple[Books, SweepTracker]:
    """What a driver does first, whether the sweep is new or goes on."""
    tracker = SweepTracker.begin(spec, record.sweep_id, spool, record.mlflow_run_id, record.mlflow_ids)
    return Books(store, record, tracker), tracker


@dataclass
class PlantedTrial:
    """One trial of such a sweep; a smaller number learns faster.

    Args:
        books: The sweep's.
        spec: The sweep.
        store: Of all runs.
        number: Of the trial.
    """

    books: Books
    spec: SweepSpec
    store: Store
    number: int
    step: int = 0

    @property
    def run_id(self) -> str:
        return f"run-{self.number:03d}"

    @property
    def config(self) -> dict[str, Any]:
        return {"lora_r": (4, 8)[self.number % 2], "learning_rate": 1e-3 / (self.number + 1)}

    def loss(self, step: int) -> float:
        return 3.0 - step / (2 + self.number)

    def begin(self) -> None:
        run = trial_spec(self.spec, self.config)
        self.books.begin_trial(self.number, self.config, 0, self.run_id, run)
        placed = {"strategy": "ddp", "trainable_parameters": 1000 * self.config["lora_r"], "datasets": [asdict(USE)]}
        self._tell("placed", placed | {"lineage": self._lineage()})
        self._tell("start", {"num_steps": 6})
        if self.step == 0:
            self._tell("eval", {"eval_loss": self.loss(0)})

    def train(self, num_steps: int) -> None:
        """Steps, and at every second an evaluation and a report."""
        for _ in range(num_steps):
            self.step += 1
            self._tell("step", {"train_loss": self.loss(self.step), "num_tokens": float(TOKENS)})
            if self.step % 2 == 0:
                self._tell("eval", {"eval_loss": self.loss(self.step)})
                self.books.report(self.run_id, self.step, self._progress())

    def finish(self, ranks: Mapping[str, int] | None = None) -> None:
        """Publish an adapter, tell of it from both sides, and end; of AdaLoRA with the ranks that it left."""
        about = self._lineage() | {"eval_loss": self.loss(self.step)}
        files = {"adapter_config.json": b"{}", "adapter_model.safetensors": self.run_id.encode()}
        uri = publish(run_store(self.store, self.run_id), FOLDER, files, about)
        self.books.report(self.run_id, self.step, self._progress() | {"adapter_uri": uri})
        self.books.end_trial(self.run_id, "succeeded")
        outcome = {"ending": "finished", "progress": self._progress(), "adapter_uri": uri}
        self._tell("outcome", outcome | {"ranks": dict(ranks or {})})

    def _progress(self) -> dict[str, Any]:
        loss = self.loss(self.step)
        return {"step": self.step, "num_tokens": TOKENS * self.step, "train_loss": loss, "eval_loss": loss}

    def _lineage(self) -> dict[str, Any]:
        digests = {"base_digest": "b" * 64, "data_digest": "d" * 64, "tokenizer_digest": "t" * 64}
        run = trial_spec(self.spec, self.config)
        return lineage(run, run_id=self.run_id, dtype="float32", base_name="m", base_revision=None, **digests)

    def _tell(self, kind: EventKind, values: dict[str, Any]) -> None:
        self.books.take(Event(kind, self.step, values, self.run_id), pack=self.number // SLOTS)


class Sweep:
    """A sweep under way."""

    def __init__(self, store: Store, spool: Path, spec: SweepSpec, record: SweepRecord | None = None) -> None:
        self.store, self.spec = store, spec
        self.books, self.tracker = open_books(store, spec, record or new_record(spec), spool)
        self.sweep_id = self.books.record.sweep_id

    def trial(self, number: int, step: int = 0) -> PlantedTrial:
        return PlantedTrial(self.books, self.spec, self.store, number, step)

    def begun(self, number: int, num_steps: int = 0) -> PlantedTrial:
        trial = self.trial(number)
        trial.begin()
        trial.train(num_steps)
        return trial

    def read(self) -> SweepRecord:
        return read_sweep(self.store, self.sweep_id)


def children(client: MlflowClient, experiment: str, parent: str) -> dict[str, Run]:
    found = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
