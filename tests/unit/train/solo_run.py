"""A run alone, as its tests follow it: every event in a list, every checkpoint in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.checkpoint import Checkpoint, save_checkpoint
from raylora.store.contract import Store
from raylora.store.kept import fall_back, give_up_beyond
from raylora.train.events import Event, Wish
from raylora.train.loop import Training
from raylora.train.outcome import Outcome
from raylora.train.trainee import Trainee
from tests.unit.train.tiny_run import build_tiny, open_rows, tiny_spec

DIGESTS = {"base": "b" * 64, "data": "d" * 64}


@dataclass
class Recorder:
    """Keeps events in a list and checkpoints in a folder; asks to stop after a step."""

    store: Store
    stop_after: int | None = None
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def wish(self) -> Wish | None:
        done = max((event.step for event in self.events), default=0)
        return "stop" if self.stop_after is not None and done >= self.stop_after else None

    def save(self, checkpoint: Checkpoint) -> str:
        return save_checkpoint(self.store, checkpoint, keep=2)

    def fall_back(self, step: int) -> str:
        return fall_back(self.store, step)

    def give_up_beyond(self, step: int) -> None:
        give_up_beyond(self.store, step)

    def values(self, kind: str, name: str) -> list[float]:
        return [event.values[name] for event in self.events if event.kind == kind]


def spec_of(home: Path, base: str = "base", **fields: object) -> RunSpec:
    return tiny_spec(home / base, home / "rows.jsonl", **{"val_set_size": 8, "max_steps": 6, **fields})


def start(
    spec: RunSpec, home: Path, folder: Path, stop_after: int | None = None, checkpoint: Checkpoint | None = None
) -> tuple[Recorder, Outcome, Trainee]:
    hooks = Recorder(open_store(str(folder)), stop_after)
    trainee = build_tiny(spec)
    rows, validation = open_rows(spec, home / "cache")
    tokenizer = load_tokenizer(Path(spec.base_model))
    outcome = Training(trainee, tokenizer, rows, validation, hooks, DIGESTS).run(checkpoint)
    return hooks, outcome, trainee
