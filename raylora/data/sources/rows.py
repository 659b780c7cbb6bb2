"""A row of a file becomes a conversation, a passage, a pair of either, a rated one, or what has classes, by its type.

Enters: one row as a dict, the dataset's type and its column names. Leaves: a Conversation (rendered by the chat
template), a Passage (prompt and text), a Pair, a Rated, a Classified text, Tagged words or a ClassifiedFile. Called by
tokenise. To add a type, add its function and its entry in TYPES.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raylora.data.sources.conversation import Conversation, read_conversation, short, unweighted
from raylora.errors import DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Passage:
    """Text to learn, after a prompt (possibly empty) that is read and not learned."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one first."""

    chosen: Conversation | Passage
    rejected: Conversation | Passage


@dataclass(frozen=True)
class Rated:
    """An answer to a prompt, and whether it is one that is wished for."""

    answer: Conversation | Passage
    is_desirable: bool


@dataclass(frozen=True)
class Classified:
    """A text and its class, by name or by number."""

    text: str
    label: str | int


@dataclass(frozen=True)
class Tagged:
    """Words and the class of each, by name or by number."""

    words: tuple[str, ...]
    tags: tuple[str | int, ...]


@dataclass(frozen=True)
class ClassifiedFile:
    """An image or a recording, by column: as the bytes of its file or as its path; and its class, by name or number."""

    column: str
    content: bytes | str
    label: str | int


Example = Conversation | Passage | Pair | Rated | Classified | Tagged | ClassifiedFile


@dataclass(frozen=True)
class RowType:
    """The columns a type reads and how they become an example."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Example]


def read_row(row: Any, kind: str, columns: Mapping[str, str]) -> Example:
    """Turn one row into what the encoder takes.

    Args:
        row: The row as read from its file.
        kind: One of ``TYPES``.
        columns: The file's own names by ours, as in ``{"messages": "conversation"}``.

    Raises:
        DataError: A column is missing or holds something else; the message does not say where the row is.
    """
    if not isinstance(row, dict):
        raise DataError(f"a row is an object with named columns, got {type(row).__name__}")
    shape = TYPES[kind]
    for ours in shape.required:
        theirs = columns.get(ours, ours)
        if theirs not in row:
            known = ", ".join(map(str, row)) or "none"
            raise DataError(
                f"no column {theirs!r} (type {kind} reads {', '.join(shape.required)}); the row has: {known}"
                f"{_nearest(theirs, row)}; map it with columns: {{{ours}: YOUR_COLUMN}} or set another type"
            )
    return shape.read({ours: row.get(columns.get(ours, ours)) for ours in (*shape.required, *shape.optional)})


def check_columns(kind: str, columns: Mapping[str, str]) -> None:
    """Refuse a column mapping that maps a column the type does not read.

    Args:
        kind: One of ``TYPES``.
        columns: The file's own names by ours.

    Raises:
        DataError: Names the key, the allowed keys and the nearest one.
    """
    allowed = (*TYPES[kind].required, *TYPES[kind].optional)
    for ours in columns:
        if ours not in allowed:
            raise DataError(
                f"columns: type {kind} reads no {ours!r}; allowed: {', '.join(allowed)}{_nearest(ours, allowed)}"
            )


def _nearest(name: str, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(name, [str(word) for word in known], n=1)
    return f"; nearest: {close[0]}" if close else ""


def _completion(row: Row) -> Passage:
    return Passage(_text(row, "prompt"), _text(row, "completion"))


def _alpaca(row: Row) -> Passage:
    # The wording is Stanford Alpaca's, which models and other trainers share.
    given = _text(row, "input") if row["input"] else ""
    about = "an instruction that describes a task"
    if given:
        about += ", paired with an input that provides further context"
    prompt = f"Below is {about}. Write a response that appropriately completes the request.\n\n"
    prompt += f"### Instruction:\n{_text(row, 'instruction')}\n\n"
    prompt += f"### Input:\n{given}\n\n" if given else ""
    return Passage(f"{prompt}### Response:\n", _text(row, "output"))


def _plain_text(row: Row) -> Passage:
    return Passage("", _text(row, "text"))


def _preference(row: Row) -> Pair:
    """Texts after a prompt, or messages; where messages come without a prompt it is what both begin with alike."""
    for column in ("chosen", "rejected"):
        if row[column] is None:
            raise _no_answer(column)
    if all(isinstance(row[column], str) and not _is_json(row[column]) for column in ("chosen", "rejected")):
        prompt = "" if row["prompt"] is None else _text(row, "prompt")
        return _different(Pair(Passage(prompt, row["chosen"]), Passage(prompt, row["rejected"])))
    chosen, rejected = (_answered(row, column) for column in ("chosen", "rejected"))
    if row["prompt"] is None:
        num_shared = _num_shared(chosen, rejected)
        chosen, rejected = replace(chosen, num_given=num_shared), replace(rejected, num_given=num_shared)
    return _different(Pair(chosen, rejected))


def _unpaired_preference(row: Row) -> Rated:
    """An answer after a prompt, each as text or as messages, and a label."""
    is_desirable = _truth(row, "label")
    if isinstance(row["completion"], str) and not _is_json(row["completion"]):
        answer: Conversation | Passage = Passage(_text(row, "prompt"), row["completion"])
    else:
        answer = _answered(row, "completion")
    return Rated(_said(answer, "completion"), is_desirable)


def _truth(row: Row, column: str) -> bool:
    """True or false, or the words: cells of CSV are text."""
    value = row[column]
    found = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise DataError(f"column {column!r} holds true (desirable) or false (undesirable), got {short(value)}")
    return found


def _classification(row: Row) -> Classified:
    return Classified(_text(row, "text"), _class(row["label"], "label"))


def _tags(row: Row) -> Tagged:
    words, tags = (_list(row, column) for column in ("tokens", "tags"))
    if len(words) != len(tags):
        raise DataError(f"tokens are {len(words)} and tags {len(tags)}; each word has one tag")
    for at, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"tokens[{at}]: a word, got {short(word)}")
    return Tagged(tuple(words), tuple(_class(tag, f"tags[{at}]") for at, tag in enumerate(tags)))


def _file(column: str, row: Row) -> ClassifiedFile:
    """A path, or what columns of files are in `datasets`: bytes, or a path beside none."""
    value, label = row[column], _class(row["label"], "label")
    if isinstance(value, Mapping):
        if isinstance(content := value.get("bytes"), str):
            with suppress(binascii.Error, ValueError):
                return ClassifiedFile(column, base64.b64decode(content, validate=True), label)
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise DataError(
            f"column {column!r} holds the path of a file, or {{bytes: ...}} with its content, which JSON has in "
            f"base64; got {short(row[column])}"
        )
    return ClassifiedFile(column, value, label)


def _list(row: Row, column: str) -> list[Any]:
    """A list, which CSV files hold as its JSON text."""
    value = row[column]
    if isinstance(value, str) and _is_json(value):
        with suppress(ValueError, RecursionError):  # no JSON, or a number of more digits than Python reads
            value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise DataError(f"{column}: a list with something in it, got {short(row[column])}")
    return value


def _class(value: Any, at: str) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{at}: a class by its name or its number, got {short(value)}")
    return value


def _different(pair: Pair) -> Pair:
    if pair.chosen == pair.rejected:
        raise DataError("chosen and rejected are the same; a pair has two different answers")
    return Pair(_said(pair.chosen, "chosen"), _said(pair.rejected, "rejected"))


def _said(answer: Conversation | Passage, column: str) -> Conversation | Passage:
    """Refuse an answer that says nothing: what would be learned of it is that it ends."""
    if isinstance(answer, Passage):
        is_empty = not answer.text.strip()
    else:
        said = [each for each in answer.messages[answer.num_given :] if each["role"] == "assistant"]
        is_empty = not any(each["content"].strip() or each.get("tool_calls") for each in said)
    if is_empty:
        raise _no_answer(column)
    return answer


def _no_answer(column: str) -> DataError:
    return DataError(f"column {column!r} holds no answer; give the assistant's text, or remove the row")


def _answered(row: Row, column: str) -> Conversation:
    """The messages of a prompt and of one of its answers."""
    tools = row["tools"]
    answer = unweighted(read_conversation({"messages": row[column], "tools": tools}, column), column)
    if row["prompt"] is None:
        return answer
    prompt = row["prompt"]
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and not _is_json(prompt) else prompt
    asked = read_conversation({"messages": given, "tools": tools}, "prompt").messages
    return Conversation([*asked, *answer.messages], answer.tools, len(asked))


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("[")


def _num_shared(chosen: Conversation, rejected: Conversation) -> int:
    """Messages that two conversations begin with alike."""
    pairs = enumerate(zip(chosen.messages, rejected.messages, strict=False))
    shortest = min(len(chosen.messages), len(rejected.messages))
    return next((at for at, (one, other) in pairs if one != other), shortest)


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"column {column!r} holds text, got {short(value)}")
    return value


TYPES: dict[str, RowType] = {
    "chat": RowType(("messages",), ("tools",), read_conversation),
    "completion": RowType(("prompt", "completion"), (), _completion),
    "alpaca": RowType(("instruction", "output"), ("input",), _alpaca),
    "text": RowType(("text",), (), _plain_text),
    "preference": RowType(("chosen", "rejected"), ("prompt", "tools"), _preference),
    "unpaired_preference": RowType(("prompt", "completion", "label"), ("tools",), _unpaired_preference),
    "classification": RowType(("text", "label"), (), _classification),
    "tags": RowType(("tokens", "tags"), (), _tags),
    "image": RowType(("image", "label"), (), partial(_file, "image")),
    "audio": RowType(("audio", "label"), (), partial(_file, "audio")),
}
"""Each row type of the specification."""
