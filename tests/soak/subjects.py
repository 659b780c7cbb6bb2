"""What is soaked, a run and a packed sweep: the words that start each, and what must be as if nothing had struck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from raylora.store.blob import open_store
from raylora.store.records import Record
from raylora.store.runs import list_runs
from raylora.store.sweeps import list_sweeps
from tests.cluster.alone import APART
from tests.cluster.command import overrides
from tests.cluster.conftest import RUN, SWEPT
from tests.cluster.made_sweeps import ends, told_once, write
from tests.cluster.undisturbed import adapter_bits
from tests.unit.train.tiny_run import save_base, write_chats

NUM_STEPS = 40
GOOD, WILD, SLOW = [1e-3, 5e-3, 2e-3], [1e30], [1e-6, 2e-6, 3e-6, 4e-6]
"""Learning rates of trials; the loss of the second kind is not finite after its first steps, and a scheduler that sees
the last does not let them come to their end."""
NOT_FINITE = "the loss of a trial in a slot not finite"
"""A fault that is in the sweep itself: the one that was left alone does not have that trial."""
STOPPED = "a trial stopped by its scheduler"
"""Another, which is in the one that was left alone as well: the same trials at the same steps."""

SETTINGS = ("distributed.worker_timeout_s=10", "distributed.max_failures=99")
OF_RUN = (
    *(f"max_steps={NUM_STEPS}", "gradient_accumulation_steps=8", "eval_steps=20", "save_steps=5"),
    "sample_prompts=[]",
)
SWEEP: dict[str, Any] = {
    "run": SWEPT | {"save_steps": 4, "lora_dropout": 0.1, "gradient_accumulation_steps": 4},
    "searcher": "grid",
    "budget": {"steps": NUM_STEPS},
    "report_steps": 4,
    "slots": len(GOOD + WILD),
}
STOPS: dict[str, Any] = {"scheduler": "asha", "grace_period": 8, "reduction_factor": 2, "slots": len(GOOD + SLOW)}
RUN_ALONE = "run-alone"
"""Where the run that was left alone is kept: its adapter is one to make bad ones of."""
ALONE, STRUCK, STOPPING = (f"{name}.yaml" for name in ("alone", "struck", "stopping"))
LEAVES_NOTHING = "that nothing is left on the cluster"
ONCE = "that each step is once in MLflow"
LOSSES = ("train_loss", "eval_loss", "eval_loss_before")

Facts = dict[str, Any]


def write_subjects(folder: Path) -> None:
    """Make a base, rows, and the files of the run and of the sweep, with and without the trial that fails."""
    save_base(folder / "base")
    write_chats(folder / "rows.jsonl", 200)
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    for name, rates, others in ((ALONE, GOOD, {}), (STRUCK, GOOD + WILD, {}), (STOPPING, GOOD + SLOW, STOPS)):
        write(folder, name, SWEEP | {"space": {"learning_rate": {"choice": rates}}, **others})


class Run:
    """A run of two workers.

    Args:
        settings: Further ones.
        apart: How far losses may lie from those of the run that was left alone; of none where bits must be equal.
    """

    def __init__(self, *settings: str, apart: float = 0.0) -> None:
        self._settings, self._apart = settings, apart

    def words(self, store: str, experiment: str, is_left_alone: bool) -> list[str]:
        """Words that start it."""
        del is_left_alone
        places = (f"storage.uri={store}", f"tracking.experiment={experiment}")
        return ["train", "run.yaml", *overrides(*OF_RUN, *SETTINGS, *self._settings, *places), "--json"]

    def name_in(self, store: str) -> str | None:
        """By which it is resumed; `None` where it has not come as far as to have one."""
        return _the_name(list_runs, store, "run_id")

    def facts(self, result: Mapping[str, Any], mlflow: MlflowClient, experiment: str) -> Facts:
        """What must be the same whatever struck."""
        history = mlflow.get_metric_history(result["mlflow_run_id"], "train_loss")
        return {
            "adapter": adapter_bits(result),
            ONCE: [point.step for point in history] == list(range(1, NUM_STEPS + 1)),
            "number of MLflow runs": len(mlflow.search_runs([mlflow.get_experiment_by_name(experiment).experiment_id])),
            **{name: result[name] for name in ("steps", "tokens", *LOSSES)},
        }

    def differing(self, found: Facts, wanted: Facts) -> list[str]:
        """Names of the facts that are other than they should be."""
        return [name for name, value in wanted.items() if not self._same(name, found[name], value)]

    def _same(self, name: str, found: Any, wanted: Any) -> bool:
        if self._apart and name == "adapter":
            return True
        return abs(found - wanted) <= self._apart if name in LOSSES else found == wanted

    def struck_within(self, result: Mapping[str, Any]) -> Mapping[str, int]:
        """Faults that are in itself."""
        del result
        return {}


class Sweep:
    """A sweep of one pack on two workers.

    Args:
        file: Of it.
        alone: Of what it is held against; the same where absent.
    """

    def __init__(self, file: str, alone: str | None = None) -> None:
        self._file, self._alone = file, alone or file

    def words(self, store: str, experiment: str, is_left_alone: bool) -> list[str]:
        """Words that start it."""
        places = (f"storage.uri={store}", f"tracking.experiment={experiment}")
        return ["sweep", self._alone if is_left_alone else self._file, *overrides(*SETTINGS, *places), "--json"]

    def name_in(self, store: str) -> str | None:
        """By which it is resumed; `None` where it has not come as far as to have one."""
        return _the_name(list_sweeps, store, "sweep_id")

    def facts(self, result: Mapping[str, Any], mlflow: MlflowClient, experiment: str) -> Facts:
        """What must be the same whatever struck: of the trials that do not fail, and that all are told of."""
        sound = [trial for trial in result["trials"] if trial["config"]["learning_rate"] not in WILD]
        return {
            "adapters": [adapter_bits(trial) for trial in sound if trial["adapter_uri"] is not None],
            "ends": ends({"trials": sound}),
            "tokens": [trial["tokens"] for trial in sound],
            ONCE: holds(lambda: told_once(mlflow, experiment, dict(result))),
        }

    def differing(self, found: Facts, wanted: Facts) -> list[str]:
        """Names of the facts that are other than they should be."""
        return [name for name, value in wanted.items() if found[name] != value]

    def struck_within(self, result: Mapping[str, Any]) -> Mapping[str, int]:
        """Faults that are in itself."""
        statuses = [trial["status"] for trial in result["trials"]]
        return {NOT_FINITE: statuses.count("failed"), STOPPED: statuses.count("stopped")}


def is_sound(facts: Facts) -> bool:
    """Whether a run or sweep that was left alone is one to hold others against."""
    return bool(facts[ONCE] and facts[LEAVES_NOTHING])


def on_changing_nodes() -> Run:
    """A run that goes on with one worker where the other's node is gone: sums in another order, not the same bits."""
    return Run("distributed.num_workers=[1, 2]", apart=APART)


def holds(check: Callable[[], object]) -> bool:
    """Whether what a test asserts is so; if not, it is shown."""
    try:
        check()
    except AssertionError as error:
        print(f"    {error}", flush=True)
        return False
    return True


def _the_name(records: Callable[..., list[Any]], store: str, field: str) -> str | None:
    found: list[Record] = records(open_store(store))
    return getattr(found[0], field) if found else None
