"""The references of a run's and of a sweep's file leave, made from the fields, rules and tables that loading uses.

`python -m raylora.spec.pages.reference > docs/configuration.md` writes one, `... reference sweep > docs/sweeps.md` the other;
a test holds the committed files to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from raylora.spec.fields.knobs import Space
from raylora.spec.fields.run import RunFields
from raylora.spec.fields.sweep import BudgetSpec
from raylora.spec.pages.sweep_words import SWEEP_HEAD, SWEEP_TAIL
from raylora.spec.reading.catalog import GROUPS, SWEEP_GROUPS, Group, default_of, part_in
from raylora.spec.reading.method_names import METHODS, meaning
from raylora.spec.reading.other_tools import DATASET_ALIASES, RUN_ALIASES, Alias
from raylora.spec.rules.rule import Rule
from raylora.spec.rules.run import RULES
from raylora.spec.run import NOT_DIGESTED
from raylora.spec.sweeps.rules import SWEEP_RULES
from raylora.spec.text.words import allowed
from raylora.spec.text.yaml_text import write_yaml

_HEAD = """\
# Configuration

Written by `make docs` from the fields in `raylora/spec/`; a test fails when the two differ.

A run is one YAML file:

```yaml
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
load_in_4bit: true
lora_r: 16
datasets:
  - path: rows.jsonl
    type: chat
distributed:
  strategy: fsdp
  num_workers: 2
```

`raylora init` writes one with every field in it, `raylora validate` checks one, `raylora schema` prints the JSON schema
that editors complete from.

- Scalars are read by YAML 1.2: `2e-4` is a number, `no` and `2026-01-01` are text. A field that is true or false takes
  `true` and `false` alone, a key of another tool as well: `yes`, `no`, `on`, `off`, `1` and `0` are refused.
- A key without a value (`lora_dropout:`) takes its default.
- Paths are relative to the working directory.
- `--set key=value` wins over the file; the value is YAML, the key a dotted path, lists by index:
  `--set lora_r=8 --set distributed.num_workers=4 --set datasets.0.path=more.jsonl`.
- An unknown key is an error, and so is a key given twice. All problems of a file are reported at once.
- Passwords and tokens are read from the environment only; an address that carries one is refused.
"""

_RULES = """\
## Rules between fields

"""

_DIGEST = """\
## Digest

The digest of a run is the SHA-256 of the fields that decide what is trained, after overrides, other tools' keys and
defaults. These do not change it: {outside}. Of `distributed` only `num_workers` does:
strategies are held to the same losses, so a run may go on under another one.
"""

_METHODS = """\
## Names of methods

A method may be asked for by its own name, in a run and among the choices of a sweep's `adapter`. It is read as the
fields that make it, with a printed note, and goes with what these go with; a field that says otherwise beside it is an
error. What else there is to say of each is in [methods.md](methods.md).

| `adapter` | read as |
|---|---|
"""

_ALIASES = """\
## Keys of other tools

Files of TRL, PEFT, LLaMA-Factory and axolotl can be read: these keys, and their words for an optimizer, a schedule or
a data type, are translated with a printed note each. A field and another tool's key for it in one file are an error.
What such a file leaves out takes raylora's defaults. Their keys without a counterpart here are passed over with a note
where they do not change what is trained, and are an error that says what to do where they would.

| key | tool | read as |
|---|---|---|
"""


def configuration_markdown() -> str:
    """Return the text of docs/configuration.md."""
    outside = ", ".join(f"`{name}`" for name in sorted(NOT_DIGESTED - {"distributed"}))
    sections = [_HEAD, *(_section(group) for group in GROUPS)]
    sections += [_RULES + _sentences(RULES), _DIGEST.format(outside=outside), _METHODS + "".join(_method_rows())]
    sections += [_ALIASES + "".join(_alias_rows())]
    return "\n".join(sections)


def sweeps_markdown() -> str:
    """Return the text of docs/sweeps.md."""
    sections = [SWEEP_HEAD, *(_section(group) for group in SWEEP_GROUPS), _RULES + _sentences(SWEEP_RULES), SWEEP_TAIL]
    return "\n".join(sections)


def _sentences(rules: Iterable[Rule[Any]]) -> str:
    return "".join(f"- {rule.sentence}\n" for rule in rules)


def _section(group: Group) -> str:
    head = f"## {group.title}\n\n{_escaped(group.about)}\n\n| field | allowed | default | what it says |\n|---|---|---|---|\n"
    return head + "".join(_row(group, name, field) for name, field in group.fields.items())


def _row(group: Group, name: str, field: FieldInfo) -> str:
    prefix = "" if group.prefix.startswith("datasets") else group.prefix
    also = ", ".join(f"`{key}`" for key in _also(group, name))
    about = f"{field.description} Also read: {also}." if also else field.description or ""
    return f"| `{prefix}{name}` | {_allowed(field)} | {_default(field)} | {_escaped(about)} |\n"


def _also(group: Group, name: str) -> list[str]:
    """Return other tools' keys for a field."""
    if group in SWEEP_GROUPS:
        return []
    in_dataset = group.prefix.startswith("datasets")
    aliases: Mapping[str, Alias] = DATASET_ALIASES if in_dataset else RUN_ALIASES
    path = name if in_dataset else group.prefix + name
    return [key for key, alias in aliases.items() if any(f"{each}.".startswith(f"{path}.") for each in alias.targets)]


def _allowed(field: FieldInfo) -> str:
    if field.annotation == Space:
        return "knobs by name, see below"
    part = part_in(field)
    if part is RunFields:
        return "path, or a group of a run's fields"
    if part is BudgetSpec:
        return "a group, see below"
    return "list of entries, see below" if part else _escaped(allowed(field))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = default_of(field)
    return "" if value is None else f"`{write_yaml({'_': value}).partition(': ')[2].strip()}`"


def _method_rows() -> Iterator[str]:
    for name in METHODS:
        yield f"| `{name}` | {meaning(name)} |\n"


def _alias_rows() -> Iterator[str]:
    for aliases, where in ((RUN_ALIASES, ""), (DATASET_ALIASES, "datasets: ")):
        for key, alias in aliases.items():
            targets = " or ".join(f"`{target}`" for target in alias.targets) or "nothing (`pad_token` only)"
            yield f"| {where}`{key}` | {alias.tool} | {targets} |\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(sweeps_markdown() if sys.argv[1:] == ["sweep"] else configuration_markdown())
