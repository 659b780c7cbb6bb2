"""YAML text enters; plain values, the line of every key, and what is wrong with the text leave. `reading/load.py` calls it.

Scalars mean what YAML 1.2's core schema says (https://yaml.org/spec/1.2.2/#103-core-schema), not PyYAML's 1.1: `2e-4`
is a number, `no` and `2026-01-01` are text. Nothing but mappings, lists and these scalars can come out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from raylora.errors import Problem
from raylora.spec.text.show import printable

KeyPath = tuple[str | int, ...]

MAX_VALUES = 10_000
"""A configuration beyond this many values is a mistake, or anchors that multiply."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class _CoreLoader(yaml.SafeLoader):
    """Composes nodes and gives plain scalars the core schema's tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML fills it through add_implicit_resolver


class _CoreDumper(yaml.SafeDumper):
    """Quotes what the core schema would not read back as text, and indents the items of a list."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - see above

    def text(self, value: str) -> yaml.ScalarNode:
        # PyYAML folds these line separators to spaces unless they are escaped.
        style = '"' if re.search("[\x85\u2028\u2029]", value) else None
        return self.represent_scalar(_TAG + "str", value, style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _name, _pattern in _SCALARS.items():
    for _side in (_CoreLoader, _CoreDumper):
        _side.add_implicit_resolver(_TAG + _name, _pattern, None)


_CoreDumper.add_representer(str, _CoreDumper.text)


@dataclass
class Document:
    """What a YAML text says.

    Args:
        values: Plain mappings, lists and scalars; None for an empty text.
        lines: Line, from 1, of the key or list item that each path stands at.
        problems: What is wrong with the text itself.
        refused: Paths among them, where a value is missing that was written.
    """

    values: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)


def read_yaml(text: str) -> Document:
    """Read one YAML document; nothing is raised, whatever the text."""
    document = Document()
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is not None:
            document.values = _Reading(document).value(node, ())
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text))
    except RecursionError:
        document.problems.append(Problem("YAML", "nested too deeply, or an anchor that contains itself"))
    except (ValueError, OverflowError) as error:
        # PyYAML lets escapes such as "\U00110000" through to chr().
        document.problems.append(Problem("YAML", f"a character or number that cannot be read: {error}"))
    return document


def write_yaml(values: Any) -> str:
    """Write plain values so that `read_yaml` reads them back the same."""
    text: str = yaml.dump(values, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def dotted(path: KeyPath) -> str:
    """Return a path as a person writes it: `datasets.0.path`; odd characters are escaped."""
    return ".".join(printable(str(each)) for each in path)


class _Reading:
    """One pass over the nodes of a document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.num_values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES:,} values", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.item(each, (*path, index)) for index, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        return self.refuse(node, path, f"the tag {node.tag} is not read; remove it")

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                self.refuse(key_node, path, "a key must be text; put it in quotes")
                continue
            key, line = self.text(key_node, path), _line(key_node)
            if key is None:
                continue
            if key in values:
                first = self.document.lines[(*path, key)]
                self.refuse(key_node, (*path, key), f"given twice, first in line {first}; remove one")
                continue
            self.document.lines[(*path, key)] = line
            values[key] = self.value(value_node, (*path, key))
        return values

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.document.lines[path] = _line(node)
        return self.value(node, path)

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return self.text(node, path)
        if kind not in _SCALARS or not _SCALARS[kind].match(node.value):
            return self.refuse(node, path, f"the tag {node.tag} is not read for {node.value[:40]!r}; remove it")
        if kind == "int":
            return self.whole(node, path)
        return {"null": _null, "bool": _bool, "float": _float}[kind](node.value)

    def text(self, node: yaml.ScalarNode, path: KeyPath) -> str | None:
        try:
            # JSON escapes a character beyond 16 bits as two halves, which YAML leaves apart.
            text: str = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self.refuse(node, path, f"{node.value!a} is no text: it holds half a character")
            return None
        return text

    def whole(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = node.value
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        if len(text) > 20 or abs(number := int(text[2:] if base != 10 else text, base)) >= 2**63:
            return self.refuse(node, path, f"{text[:40]} does not fit in 64 bits; put it in quotes if it is text")
        return number

    def refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.document.refused.update({path} if path else set())
        self.document.problems.append(Problem(dotted(path) or "YAML", message, _line(node)))


def _null(text: str) -> None:
    return None


def _bool(text: str) -> bool:
    return text[0] in "tT"


def _float(text: str) -> float:
    word = text.lower().lstrip("+-")
    if word == ".nan":
        return math.nan
    if word == ".inf":
        return -math.inf if text.startswith("-") else math.inf
    return float(text)


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """Say where and why a text is no YAML."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem("YAML", f"the character U+{error.character:04X} is not allowed here", line)
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem("YAML", str(error))
    mark = error.problem_mark or error.context_mark
    why = ", ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "'\\t'" in why else ""
    return Problem("YAML", f"{why}{hint}", mark.line + 1 if mark else None)
