"""A YAML file and `--set` overrides enter, a validated run and the notes to print leave. The command line calls it.

The steps: text to values with lines (`text/yaml_text.py`), overrides (`overrides.py`), other tools' keys (`aliases.py`),
names of methods (`method_names.py`), fields and rules (`check.py`). Problems of all steps are collected and raised once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raylora.errors import Problem, SpecError
from raylora.spec.reading.aliases import resolve_aliases
from raylora.spec.reading.check import check
from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.reading.file_kind import refuse_other_kinds
from raylora.spec.reading.method_names import resolve_method
from raylora.spec.reading.overrides import apply_override
from raylora.spec.run import RunSpec
from raylora.spec.text.show import show
from raylora.spec.text.yaml_text import Document, KeyPath, dotted, read_yaml


@dataclass(frozen=True)
class LoadedSpec:
    """A run read from a file.

    Args:
        spec: The run.
        notes: Lines to print: other tools' keys that were read or passed over.
        path: The file.
    """

    spec: RunSpec
    notes: tuple[str, ...]
    path: Path


def load_spec(path: Path, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read a configuration.

    Relative paths in it (datasets, a local base) are relative to the working directory, not to the file. A key
    without a value takes its default.

    Args:
        path: YAML file in UTF-8.
        overrides: `key=value` words of `--set`, applied in order over the file; `overrides.py` says how.

    Returns:
        The run and what to print about it.

    Raises:
        SpecError: The file cannot be read or says something wrong; carries every problem with its line.
    """
    draft = read_draft(path)
    refuse_other_kinds("run", draft.values, path)
    for override in overrides:
        apply_override(draft, override)
    resolve_aliases(draft)
    resolve_method(draft)
    spec = check(draft)
    if spec is None:
        raise told_in_order(draft, path)
    return LoadedSpec(spec, tuple(draft.notes), path)


def read_draft(path: Path) -> Draft:
    """Read a file of `key: value` lines as it stands.

    Raises:
        SpecError: The file cannot be read, or holds something else.
    """
    document = read_document(path)
    values = {} if document.values is None else document.values
    if not isinstance(values, dict):
        document.problems.append(
            Problem("YAML", f"got {show(values)}; a configuration is a list of `key: value` lines")
        )
    if not isinstance(values, dict) or (document.values is None and document.problems):
        raise SpecError(document.problems, str(path))
    return Draft(values, origins_of(document), document.problems, refused=document.refused)


def read_document(path: Path) -> Document:
    """Read a YAML file in UTF-8, whatever it holds.

    Raises:
        SpecError: There is no such file, or it cannot be read.
    """
    return read_yaml(_text(path))


def origins_of(document: Document) -> dict[KeyPath, Origin]:
    """Return where each value of a document was written."""
    return {key: Origin(dotted(key), line) for key, line in document.lines.items()}


def told_in_order(draft: Draft, path: Path) -> SpecError:
    """Return the error with every problem of a draft, by line.

    Args:
        draft: With at least one problem; those without a line come first.
        path: The file that the error names.
    """
    return SpecError(sorted(draft.problems, key=lambda problem: problem.line or 0), str(path))


def _text(path: Path) -> str:
    """Read a file as UTF-8, whatever the locale."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem("YAML", f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8", line)
    except FileNotFoundError:
        problem = Problem("file", "there is no such file; write one with: raylora init")
    except OSError as error:
        problem = Problem("file", f"cannot be read: {error.strerror}")
    except ValueError as error:
        problem = Problem("file", f"is no path: {error}")
    raise SpecError([problem], str(path))
