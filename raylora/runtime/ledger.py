"""What the driver makes of a run's events: MLflow's numbers, pictures and files, and the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raylora.log import get_logger
from raylora.store.contract import Store
from raylora.store.manifest import read_manifest
from raylora.tracking.inputs import DatasetUse
from raylora.tracking.lineage import lineage_tags
from raylora.tracking.loss_picture import Losses, draw_losses
from raylora.tracking.rank_picture import draw_ranks
from raylora.tracking.run_log import RunLog
from raylora.train.events import Event

log = get_logger(__name__)


class Ledger:
    """Takes every event of a run, in order.

    Args:
        tracker: The run's MLflow run.
        store: The run's own store.
        title: Of the loss picture.
        seen: Step of the newest event of a kind that an earlier process took in already.
    """

    def __init__(self, tracker: RunLog, store: Store, title: str, seen: Mapping[str, int] | None = None) -> None:
        self._tracker, self._store, self._title = tracker, store, title
        self._losses: dict[str, dict[int, float]] = {"train_loss": {}, "eval_loss": {}}
        self._last_steps = {"step": -1, "eval": -1} | dict(seen or {})
        self._is_resumed = max(self._last_steps.values()) >= 0
        self._phases_s: dict[str, float] = {}
        self._placement: Mapping[str, Any] = {}
        self._samples: Mapping[str, list[str]] = {"before": [], "after": []}
        self.outcome: Mapping[str, Any] | None = None

    def take(self, event: Event) -> None:
        """Note one event."""
        values = event.values
        match event.kind:
            case "log":
                log.log(values["level"], "%s", values["text"])
            case "phase":
                self._phases_s[values["name"]] = values["seconds"]
            case "placed":
                self._placement = values
                self._tracker.log_tags(lineage_tags(values["lineage"]))
                self._tracker.log_inputs([DatasetUse(**use) for use in values["datasets"]])
            case "start":
                self._is_resumed |= event.step > 0
            # Restarted workers repeat the steps since their checkpoint, to the same numbers.
            case "step" | "eval" if event.step > self._last_steps[event.kind]:
                self._last_steps[event.kind] = event.step
                self._tracker.log_metrics(event.step, values)
                for name in self._losses.keys() & values.keys():
                    self._losses[name][event.step] = values[name]
            case "samples":
                self._samples = values
            case "outcome":
                self.outcome = values

    def ask(self) -> None:
        """Find out what an earlier process told MLflow: when it was killed it may have told more than it wrote down."""
        for kind, name in (("step", "train_loss"), ("eval", "eval_loss")):
            self._last_steps[kind] = max(self._last_steps[kind], self._tracker.last_step(name))
        self._is_resumed |= max(self._last_steps.values()) >= 0

    @property
    def last_step(self) -> int:
        """The newest step that events told of; below 0 where none has."""
        return self._last_steps["step"]

    @property
    def stopped(self) -> bool:
        """Whether training ended because somebody asked."""
        return self.outcome is not None and self.outcome["ending"] == "stopped"

    def close(self) -> None:
        """Send what a run leaves behind: what was trained, and pictures of the losses and of the ranks that are left.

        Raises:
            StoreError: What was trained is not there, as where the workers wrote it into a folder of their own machine.
        """
        if self.outcome and self.outcome["adapter_uri"]:
            folder = self.outcome["adapter_uri"].rpartition("/")[2]
            read_manifest(self._store, folder)
            self._tracker.log_published(self._store.uri, folder)
        if train_losses := self._curve("train_loss"):
            self._log_picture("loss.png", partial(self._draw_losses, train_losses))
        self.log_ranks()

    def log_ranks(self) -> None:
        """Send the ranks that are left, as numbers by layer and as a picture; nothing where a kind takes none away."""
        if ranks := (self.outcome or {}).get("ranks"):
            self._tracker.log_text("ranks.json", json.dumps(ranks, indent=1))
            self._log_picture("ranks.png", partial(draw_ranks, ranks, self._title))

    def _log_picture(self, name: str, draw: Callable[[Path], None]) -> None:
        try:
            with TemporaryDirectory() as folder:
                picture = Path(folder, name)
                draw(picture)
                self._tracker.log_picture(name, picture)
        except OSError as error:  # the run has done what it was for
            log.warning("MLflow gets no %s: %s", name, error)

    def _draw_losses(self, train_losses: Losses, picture: Path) -> None:
        draw_losses(train_losses, self._curve("eval_loss"), self._title, picture)

    def _curve(self, name: str) -> list[tuple[int, float]]:
        """A loss from the first step on, whichever process saw it."""
        earlier = self._tracker.history(name) if self._is_resumed else {}
        return sorted((earlier | self._losses[name]).items())

    def result(self) -> dict[str, Any]:
        """What the workers reported, under the names of ``raylora train --json``."""
        outcome = self.outcome or {}
        progress = outcome.get("progress", {})
        train_s, num_tokens = progress.get("train_s"), progress.get("num_tokens")
        placement = ("strategy", "device", "base_bytes_per_rank", "load_peak_bytes_per_rank", "trainable_parameters")
        return {
            "ending": outcome.get("ending"),
            "adapter_uri": outcome.get("adapter_uri"),
            "checkpoint_uri": outcome.get("checkpoint_uri"),
            "best_checkpoint_uri": outcome.get("best_checkpoint_uri"),
            "num_workers": len(self._placement.get("base_bytes_per_rank", ())),
            **{name: self._placement.get(name) for name in placement},
            "data": self._placement.get("data"),
            "steps": progress.get("step"),
            "eval_loss_before": progress.get("eval_loss_before"),
            "eval_loss": progress.get("eval_loss"),
            "eval_metrics": progress.get("eval_metrics", {}),
            "train_loss": progress.get("train_loss"),
            "tokens": num_tokens,
            "tokens_per_s": num_tokens / train_s if train_s else None,
            "train_peak_bytes_per_rank": outcome.get("train_peak_bytes_per_rank"),
            "ranks_by_layer": outcome.get("ranks") or None,
            "samples": self._samples,
            "phases_s": self._phases_s,
        }
