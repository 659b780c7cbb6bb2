"""Rows of answers to a prompt: two to compare, or one with a judgement. Called by rows."""

from __future__ import annotations

from dataclasses import replace

from raylora.data.sources.cells import Row, is_json, text_cell
from raylora.data.sources.conversation import Conversation, read_conversation, short, unweighted
from raylora.data.sources.examples import Pair, Passage, Rated
from raylora.errors import DataError


def read_preference(row: Row) -> Pair:
    """Two answers: texts after a prompt, or messages; without a prompt it is what both begin with alike.

    Args:
        row: `chosen`, `rejected`, `prompt` and `tools`.

    Raises:
        DataError: One of the two is not there or says nothing, or they are the same.
    """
    for column in ("chosen", "rejected"):
        if row[column] is None:
            raise _no_answer(column)
    if all(isinstance(row[column], str) and not is_json(row[column]) for column in ("chosen", "rejected")):
        prompt = "" if row["prompt"] is None else text_cell(row, "prompt")
        return _different(Pair(Passage(prompt, row["chosen"]), Passage(prompt, row["rejected"])))
    chosen, rejected = (_answered(row, column) for column in ("chosen", "rejected"))
    if row["prompt"] is None:
        num_shared = _num_shared(chosen, rejected)
        chosen, rejected = replace(chosen, num_given=num_shared), replace(rejected, num_given=num_shared)
    return _different(Pair(chosen, rejected))


def read_unpaired_preference(row: Row) -> Rated:
    """An answer after a prompt, each as text or as messages, and a label.

    Args:
        row: `prompt`, `completion`, `label` and `tools`.

    Raises:
        DataError: The answer says nothing, or the label is neither true nor false.
    """
    is_desirable = _truth(row, "label")
    if isinstance(row["completion"], str) and not is_json(row["completion"]):
        answer: Conversation | Passage = Passage(text_cell(row, "prompt"), row["completion"])
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
    given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and not is_json(prompt) else prompt
    asked = read_conversation({"messages": given, "tools": tools}, "prompt").messages
    return Conversation([*asked, *answer.messages], answer.tools, len(asked))


def _num_shared(chosen: Conversation, rejected: Conversation) -> int:
    """Messages that two conversations begin with alike."""
    pairs = enumerate(zip(chosen.messages, rejected.messages, strict=False))
    shortest = min(len(chosen.messages), len(rejected.messages))
    return next((at for at, (one, other) in pairs if one != other), shortest)
