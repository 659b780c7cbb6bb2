"""The columns of a chat row become a conversation.

Enters: the values of `messages` and `tools`. Leaves: a Conversation whose messages every chat template can render:
text content, arguments of tool calls as dicts, no empty keys. Called by rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylora.errors import DataError

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages of a chat, in order, the tools it may call (JSON schemas), and how many messages only lead up to it."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    num_given: int = 0

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
    return Conversation([_message(message, f"{column}[{at}]") for at, message in enumerate(messages)], tools or None)


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
