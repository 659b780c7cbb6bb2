"""The columns of a chat row become a conversation.

Enters: the values of `messages` and `tools`. Leaves: a Conversation whose messages every chat template can render:
text content, arguments of tool calls as dicts, no empty keys, no weights, which stand beside them. Called by rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raylora.errors import DataError

Message = dict[str, Any]

LEAST_WEIGHT = 1e-6
"""Of a message that is learned: in float32, less would be lost beside messages that count in full."""
_OTHER_WORDS = ("train", "training", "loss")
"""What axolotl and ms-swift call whether a message is learned."""


@dataclass(frozen=True)
class Conversation:
    """A chat.

    Args:
        messages: In order.
        tools: That it may call, as JSON schemas.
        num_given: Messages that only lead up to it.
        weights: How much each message counts in the loss where it is learned, 0 to 1; empty where all count in full.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    num_given: int = 0
    weights: tuple[float, ...] = ()

    @property
    def turn_weights(self) -> tuple[float, ...]:
        """How much each turn of the assistant counts; empty where all count in full."""
        roles = (message["role"] for message in self.messages)
        found = tuple(weight for role, weight in zip(roles, self.weights, strict=False) if role == "assistant")
        return () if all(weight == 1 for weight in found) else found

    @property
    def num_given_turns(self) -> int:
        """Turns of the assistant that are read and not learned."""
        return sum(message["role"] == "assistant" for message in self.messages[: self.num_given])


def read_conversation(row: Mapping[str, Any], column: str = "messages") -> Conversation:
    """Check and normalise one chat row.

    Args:
        row: `messages` and `tools`, each a list or the JSON text of one.
        column: What errors call the messages.

    Raises:
        DataError: Names the message and what is wrong with it.
    """
    messages = _parsed(row["messages"])
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{column}: a list of messages with role and content, got {short(row['messages'])}")
    tools = _parsed(row["tools"])
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"tools: a list of JSON schemas, got {short(tools)}")
    found = [_message(message, f"{column}[{at}]") for at, message in enumerate(messages)]
    weights = tuple(_take_weight(message, f"{column}[{at}]") for at, message in enumerate(found))
    return Conversation(found, tools or None, weights=() if all(weight == 1 for weight in weights) else weights)


def unweighted(answer: Conversation, column: str) -> Conversation:
    """Refuse weights where answers are judged as wholes; returns the conversation without any.

    Args:
        answer: Of such a row.
        column: What errors call its messages.

    Raises:
        DataError: A turn of the assistant counts otherwise than in full.
    """
    if answer.turn_weights:
        raise DataError(
            f"{column}: a message has a weight other than 1, and answers that are compared or rated are taken whole; "
            "remove it, or learn from rows of type chat"
        )
    return replace(answer, weights=())


def short(value: Any) -> str:
    """Show a wrong value in an error without flooding it."""
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _message(message: Any, at: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError(f"{at}: a message has a role and content, got {short(message)}")
    known = {key: value for key, value in message.items() if value is not None}
    content = known.get("content", "")
    if isinstance(content, list):
        content = "".join(_text_part(part, at) for part in content)
    if not isinstance(content, str):
        raise DataError(f"{at}.content: text, got {short(content)}")
    known["content"] = content
    if calls := known.get("tool_calls"):
        if not isinstance(calls, list):
            raise DataError(f"{at}.tool_calls: a list of calls, got {short(calls)}")
        known["tool_calls"] = [_tool_call(call, at) for call in calls]
    return known


def _take_weight(message: Message, at: str) -> float:
    """Take out how much a message counts in the loss: what it weighs is nothing that a chat template is to see."""
    for word in _OTHER_WORDS:
        if word in message:
            raise DataError(
                f"{at}.{word}: got {short(message[word])}; a word of another tool's for what is weight here: of a "
                "message of the assistant's 0 where it is read and not learned, 1 where it is. Rename it, or remove it"
            )
    weight, is_learned = message.pop("weight", None), message["role"] == "assistant"
    if weight is None:
        return 1.0
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not (weight == 0 or LEAST_WEIGHT <= weight <= 1):
        raise DataError(
            f"{at}.weight: got {short(weight)}; allowed: 0 where a message is read and not learned, 1 where it counts "
            f"in full, or a number between, from {LEAST_WEIGHT:g} on"
        )
    if weight and not is_learned:
        raise DataError(
            f"{at}.weight: got {weight:g} for a message of {message['role']!r}; only the assistant's are learned: "
            "remove it, or set 0"
        )
    return float(weight)


def _text_part(part: Any, at: str) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(f"{at}.content: only text parts can be trained on, got {short(part)}")


def _tool_call(call: Any, at: str) -> dict[str, Any]:
    """Arguments written as JSON text, as in the OpenAI API, become the dict that chat templates expect."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise DataError(f"{at}.tool_calls: a call has a function with a name, got {short(call)}")
    function = {**function, "arguments": _parsed(function.get("arguments", {}))}
    return {**call, "function": function} if "function" in call else function


def _parsed(value: Any) -> Any:
    """Read a column that holds its list as JSON text, as CSV files must."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, or a number of more digits than Python reads
        return value
