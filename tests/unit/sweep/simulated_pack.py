"""A pack that trains nothing: it speaks the workers' side of the desk, and its losses come from a formula.

A slot's state is one number, which grows by the quality of the learning rate at each step: a slot that goes on from
another's state shows it in every later loss. Actors import this file; it is light.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raylora.runtime.cluster.desk_messages import Admit, Close, Command, Free, Go, Halt, Report, Save
from raylora.spec.run import RunSpec

REPORT_STEPS = 1
BAD_DROPOUT = 0.9
"""Slots with more fail at their second step."""


def loss(progress: float) -> float:
    return 5.0 * math.exp(-0.1 * progress)


def quality(spec: RunSpec) -> float:
    return 1.0 / (1.0 + (math.log10(spec.learning_rate) + 3.5) ** 2 + 0.01 * abs(spec.lora_r - 16) + 1e-3 * spec.seed)


@dataclass
class Slot:
    admit: Admit
    step: int = 0
    progress: float = 0.0
    goes: bool = False


Exchange = Callable[[int, list[Report], bool], list[Command]]


class SimulatedPack:
    """The workers' side.

    Args:
        number: Of the pack.
        folder: For saved slots.
        save_steps: Steps between saves that nobody asked for; none where 0.
    """

    def __init__(self, number: int, folder: Path, save_steps: int = 0) -> None:
        self.number, self.folder, self.save_steps = number, folder, save_steps
        self.slots: dict[str, Slot] = {}
        self.log: list[str] = []
        self.admitted: list[Admit] = []
        self.most_slots = 0

    def run(self, exchange: Exchange, num_turns: int | None = None) -> bool:
        """Take turns until there is nothing more to come, or so many; returns whether it was told to close."""
        reports: list[Report] = []
        while num_turns is None or num_turns > 0:
            commands = exchange(self.number, reports, not any(slot.goes for slot in self.slots.values()))
            reports = [report for command in commands for report in self.obey(command)]
            if any(isinstance(command, Close) for command in commands):
                return True
            if not reports:
                reports = self.turn()
                num_turns = None if num_turns is None else num_turns - bool(reports)
        return False

    def obey(self, command: Command) -> list[Report]:
        match command:
            case Admit():
                slot = Slot(command)
                if command.start_from:
                    state = json.loads(Path(command.start_from).read_text())
                    slot.step, slot.progress = state["step"], state["progress"]
                self.slots[command.lease] = slot
                self.admitted.append(command)
                self.log.append(f"admit {command.trial}" + (f" at {slot.step}" if command.start_from else ""))
                self.most_slots = max(self.most_slots, len(self.slots))
            case Go():
                self.slots[command.lease].goes = True
            case Halt():
                for each in self.slots.values():
                    each.goes = False
            case Save():
                return [self.save(command.lease)] if command.lease in self.slots else []
            case Free():
                self.slots.pop(command.lease, None)
        return []

    def save(self, lease: str) -> Report:
        slot = self.slots[lease]
        path = self.folder / f"{lease}-{slot.step}.json"
        path.write_text(json.dumps({"step": slot.step, "progress": slot.progress}))
        self.log.append(f"save {slot.admit.trial} at {slot.step}")
        return Report(lease, "saved", slot.step, {"uri": str(path)})

    def turn(self) -> list[Report]:
        """Train every slot that may by one report."""
        reports = []
        for lease, slot in list(self.slots.items()):
            if not slot.goes:
                continue
            slot.goes = False
            slot.step += REPORT_STEPS
            slot.progress += quality(slot.admit.spec) * REPORT_STEPS
            if self.save_steps and slot.step % self.save_steps == 0:
                reports.append(self.save(lease))
            reports.append(self._report(lease, slot))
        return reports

    def _report(self, lease: str, slot: Slot) -> Report:
        spec = slot.admit.spec
        nats = loss(slot.progress)
        told = {"eval_loss": nats, "eval_perplexity": math.exp(nats), "train_loss": nats}
        values = {**told, "num_tokens": 64 * slot.step}
        if spec.lora_dropout > BAD_DROPOUT and slot.step > 1:
            del self.slots[lease]
            return Report(lease, "failed", slot.step, {"error": "its loss was NaN at step 2"})
        is_spent = slot.admit.max_tokens is not None and values["num_tokens"] >= slot.admit.max_tokens
        if is_spent or slot.step >= (spec.max_steps or math.inf):
            del self.slots[lease]
            return Report(lease, "finished", slot.step, values | {"adapter_uri": f"{slot.admit.run_id}/adapter"})
        return Report(lease, "metrics", slot.step, values)
