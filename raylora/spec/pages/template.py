"""A base model and a dataset enter, a commented configuration leaves; `raylora init` writes it."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic.fields import FieldInfo

from raylora.spec.reading.catalog import GROUPS, Group, default_of, part_in
from raylora.spec.text.words import choices
from raylora.spec.text.yaml_text import write_yaml

_WIDTH = 100

_START: dict[str, Any] = {
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_modules": "all-linear",
    "val_set_size": 0.05,
    "sequence_len": 1024,
    "micro_batch_size": 4,
    "num_epochs": 1,
    "learning_rate": 0.0002,
    "eval_steps": 50,
    "distributed.strategy": "ddp",
    "distributed.num_workers": 1,
}
"""What most people change first; every other field stands as a comment with its default."""


def commented_config(base_model: str, dataset: str) -> str:
    """Return a configuration that loads as it stands.

    A line that starts with `# ` is a comment; one with `#` before a key is a field at its default: take the `#` away
    and change the value.

    Args:
        base_model: Value of `base_model`.
        dataset: Path of the one dataset.
    """
    start = {"base_model": base_model, "datasets": [{"path": dataset, "type": "chat"}], **_START}
    lines = [
        "# A raylora run. Set base_model and datasets, check it with `raylora validate`, start it with `raylora train`."
    ]
    lines += ["# A key behind a bare # has the value shown; docs/configuration.md describes every field.", ""]
    for group in GROUPS:
        if group.prefix != "datasets.0.":
            lines += _group(group, start)
    return "\n".join(lines).rstrip() + "\n"


def _group(group: Group, start: dict[str, Any]) -> list[str]:
    """Write one group, indented beneath its key where it has one."""
    lines, indent = [f"# --- {group.title} ---", f"# {group.about}"], ""
    if group.prefix:
        lines, indent = [*lines, group.prefix.removesuffix(".") + ":"], "  "
    for name, field in group.fields.items():
        lines += [indent + line for line in _field(name, field, start, group.prefix + name)]
    return [*lines, ""]


def _field(name: str, field: FieldInfo, start: dict[str, Any], path: str) -> list[str]:
    """Write one field under its description: set where it is among the first, behind `#` otherwise."""
    lines = _described(field)
    if path in start:
        lines += write_yaml({name: start[path]}).splitlines()
        return lines + _dataset_fields(field) if name == "datasets" else lines
    return lines + [f"#{line}" for line in write_yaml({name: default_of(field)}).splitlines()]


def _described(field: FieldInfo, name: str = "") -> list[str]:
    """Write a field's description as comments, behind its name where no key follows."""
    return textwrap.wrap(name + _about(field), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _about(field: FieldInfo) -> str:
    """Return a field's description, with the words it allows where the description leaves one out."""
    about, words = field.description or "", choices(field)
    return about if all(word in about for word in words) else f"{about} One of: {', '.join(words)}."


def _dataset_fields(field: FieldInfo) -> list[str]:
    """Write what the first dataset's type may be, and its further fields."""
    part = part_in(field)
    others = {name: each for name, each in part.model_fields.items() if name != "path"} if part else {}
    lines = _described(others.pop("type"), "type: ") if others else []
    lines += [line for name, each in others.items() for line in _field(name, each, {}, name)]
    return [f"    {line}" for line in lines]
