"""Make chat rows, and pairs of answers, from what Python's standard library says about itself.

`python examples/python_docs.py --out examples/data` asks every public function, class and method of the library for
its signature and its docstring, and writes `train.jsonl` and `validation.jsonl`: thousands of questions and short
answers, on any machine, without a download. The rows are the same for the same release of Python. No function and no
docstring is in both files: what one module takes over from another is one row.

`pairs.jsonl` asks the questions of `train.jsonl` again: chosen is the first sentence of the function's own docstring,
rejected that of another function's.

`kinds.jsonl` has the summaries of `train.jsonl` as texts, each with what it is said of: a function, class or method.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import pkgutil
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

# Importing these does something (opens a browser or a window, prints, changes the prompt), or they are no library.
NOT_IMPORTED = frozenset(
    [
        *("antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "rlcompleter"),
        *("test", "this", "tkinter", "turtle", "turtledemo"),
    ]
)
# People know what these define under the name that comes in their place.
KNOWN_AS = {"genericpath": "os.path", "ntpath": "os.path", "posixpath": "os.path", "nt": "os", "posix": "os"}
IMPORTS_MAY_TAKE_S = 120
MIN_WORDS, MAX_WORDS = 4, 40
MAX_SIGNATURE_CHARS = 60


@dataclass(frozen=True)
class Entry:
    """One documented function, class or method.

    Args:
        name: Its dotted name, such as ``textwrap.dedent``.
        kind: ``function``, ``class`` or ``method``.
        home: What it belongs to: a module, or a class for a method.
        signature: Its parameters, such as ``(text)``.
        summary: The first sentences of its docstring.
    """

    name: str
    kind: str
    home: str
    signature: str
    summary: str

    @property
    def key(self) -> str:
        """A digest of the words of the summary: equal for two names of one function."""
        return hashlib.sha256(" ".join(re.findall(r"\w+", self.summary.lower())).encode()).hexdigest()

    def row(self) -> dict[str, list[dict[str, str]]]:
        """The entry as a chat; one question in two shows the signature."""
        shown = self.signature if int(self.key[-1], 16) % 2 else ""
        question = f"What does Python's `{self.name}{shown}` do?"
        answer = f"`{self.name}{self.signature}` is a {self.kind} of `{self.home}`. {self.summary}"
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    @property
    def first_sentence(self) -> str:
        """What it does, in a sentence."""
        return re.split(r"(?<=[.!?])\s+", self.summary)[0]


def modules() -> Iterator[tuple[str, ModuleType]]:
    """Import every public module of the standard library, quietly: first whole packages, then their parts."""
    found = sorted({KNOWN_AS.get(name, name) for name in sys.stdlib_module_names if is_public(name)})
    while found:
        name = found.pop(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                module = importlib.import_module(name)
        except ImportError:  # Another system's.
            continue
        parts = pkgutil.iter_modules(getattr(module, "__path__", []), prefix=f"{name}.")
        found += sorted(part.name for part in parts if is_public(part.name))
        yield name, module


def is_public(name: str) -> bool:
    """Whether a module is for everybody, and does nothing when it is imported."""
    parts = name.split(".")
    return parts[0] not in NOT_IMPORTED and not any(part.startswith("_") or part in ("test", "tests") for part in parts)


def entries() -> Iterator[Entry]:
    """Describe what the modules define, the shortest names of each thing first."""
    for home, module in modules():
        for name, thing in members(module, getattr(module, "__all__", None)):
            dotted = name if home == "builtins" else f"{home}.{name}"
            if inspect.isclass(thing):
                yield from describe(dotted, "class", home, thing)
                for method_name, method in members(thing, list(vars(thing))):
                    if inspect.isroutine(method):
                        yield from describe(f"{dotted}.{method_name}", "method", dotted, method)
            elif inspect.isroutine(thing):
                yield from describe(dotted, "function", home, thing)


def members(owner: ModuleType | type, names: list[str] | None) -> Iterator[tuple[str, object]]:
    """Public members: those named, or those that the module defines itself where it names none."""
    for name in sorted(vars(owner) if names is None else names):
        thing = getattr(owner, name, None)
        if not name.startswith("_") and (names is not None or getattr(thing, "__module__", None) == owner.__name__):
            yield name, thing


def describe(name: str, kind: str, home: str, thing: object) -> Iterator[Entry]:
    """Describe one thing, if its docstring has a summary."""
    if summary := summarise(inspect.getdoc(thing) or "", name.rsplit(".", 1)[-1]):
        yield Entry(name, kind, home, signature_of(thing, kind), summary)


def summarise(docstring: str, name: str) -> str:
    """The first sentences of a docstring, in at most `MAX_WORDS` words; nothing where it has no plain sentence."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = " ".join(paragraph.split())
        if re.match(rf"[\w.]*\b{re.escape(name)}\s*\(", text) or "->" in text:
            continue  # The signature, which many docstrings begin with.
        kept: list[str] = []
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            if len(" ".join([*kept, sentence]).split()) > MAX_WORDS:
                break
            kept.append(sentence)
        summary = " ".join(kept)
        is_plain = (
            summary.isascii() and summary[:1].isalpha() and not re.search(r">>>|::|\{|\||  |0x[0-9a-f]{4}", summary)
        )
        return summary.rstrip(".:, ") + "." if is_plain and len(summary.split()) >= MIN_WORDS else ""
    return ""


def signature_of(thing: Any, kind: str) -> str:
    """Parameters without annotations; defaults only where their text says what they are."""
    try:
        parameters = list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return "(...)"
    if kind == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    shown = [
        parameter.replace(annotation=parameter.empty, default=plain(parameter.default)) for parameter in parameters
    ]
    text = str(inspect.Signature(shown))
    return text if len(text) <= MAX_SIGNATURE_CHARS else "(...)"


def plain(default: object) -> object:
    """The default itself where it is a simple value; an ellipsis for objects, whose text names an address."""
    is_simple = default is inspect.Parameter.empty or isinstance(default, str | bytes | int | float | None)
    return default if is_simple and type(default).__module__ in ("builtins", "inspect") else ...


def pairs(rows: list[Entry]) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Each entry's question with its own sentence and with the next entry's; their order is no alphabet."""
    for entry, other in pairwise(rows):
        if entry.first_sentence != other.first_sentence:
            answers = {"chosen": entry.first_sentence, "rejected": other.first_sentence}
            asked = {"prompt": entry.row()["messages"][:1]}
            yield asked | {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(f"{len(rows):,} rows in {file}")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples/data"), help="folder of the files")
    parser.add_argument("--validation-rows", type=int, default=64, help="rows for validation (default: 64)")
    options = parser.parse_args()
    signal.alarm(IMPORTS_MAY_TAKE_S)  # An import that hangs ends the script.
    warnings.simplefilter("ignore")  # Some modules are deprecated, and say so.
    unique: dict[str, Entry] = {}
    for entry in entries():
        unique.setdefault(entry.key, entry)
    # By digest: which side a row is on depends on its own words, and the order is no alphabet.
    rows = [unique[key] for key in sorted(unique)]
    validation, train = rows[: options.validation_rows], rows[options.validation_rows :]
    write(options.out / "validation.jsonl", [entry.row() for entry in validation])
    write(options.out / "train.jsonl", [entry.row() for entry in train])
    write(options.out / "pairs.jsonl", list(pairs(train)))
    write(options.out / "kinds.jsonl", [{"text": entry.summary, "label": entry.kind} for entry in train])


if __name__ == "__main__":
    main()
