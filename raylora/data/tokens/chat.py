"""A conversation becomes text, and the spans of it that the assistant wrote.

Enters: a Conversation. Leaves: the rendered text and character spans, each with its end-of-turn token, so that the
model learns to stop. Called by encode; `refusal_told` by whoever renders a template.

Three ways find where a turn starts and ends, the first that applies:
1. marks: the template says itself, with `{% generation %}`;
2. prefixes: a turn starts where the prompt that asks for it ends, and ends where the messages up to it end;
3. fillers: where the one or the other is no prefix of the whole text (reasoning that is cut from earlier turns, a
   prompt that opens the reasoning), a turn is what changes when other text is put in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from raylora.data.sources.conversation import Conversation, Message
from raylora.data.tokens.in_time import in_time
from raylora.errors import DataError

Span = tuple[int, int]

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# They differ in their first and in their last character, so no text can share an end with both.
_FILLERS = ("0 any words 1", "X other words Y")


@contextmanager
def refusal_told(what: str, advice: str) -> Iterator[None]:
    """Render a chat template inside of this.

    Args:
        what: What it is given.
        advice: What to do where it refuses that.

    Raises:
        DataError: In place of whatever the template raises, and where it takes too long.
    """
    try:
        with in_time():
            yield
    except Exception as error:  # Jinja's own, or whatever the template's operators and calls raise in Python
        said = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
        raise DataError(f"the chat template refuses the {what}: {said}; {advice}") from error


class ChatTemplate:
    """A tokenizer's chat template, rendered with the spans that the loss is counted on."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = tuple(sorted(special, key=len, reverse=True))

    def render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """Render a conversation.

        Returns:
            The text, and the spans of the assistant's turns in it, first character to one after the last, in order.

        Raises:
            DataError: There is no template, it refuses the conversation, or the spans cannot be told.
        """
        template = self._template(conversation)
        if _MARKS.search(template):
            text, spans = self._text(template, conversation, conversation.messages, marks=True)
            return text, [self._with_end(text, span) for span in spans]
        return self._spans(template, conversation)

    def _template(self, conversation: Conversation) -> str:
        try:
            return str(self._tokenizer.get_chat_template(tools=conversation.tools))
        except ValueError as error:
            raise DataError(
                "the tokenizer has no chat template; set chat_template, or use type completion or text"
            ) from error

    def _spans(self, template: str, conversation: Conversation) -> tuple[str, list[Span]]:
        text, _ = self._text(template, conversation, conversation.messages)
        turns = [at for at, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        return text, [self._turn(template, conversation, at, text) for at in turns]

    def _turn(self, template: str, conversation: Conversation, at: int, text: str) -> Span:
        """Find either end of a turn by its prefix, and by fillers where that is no prefix of the whole text."""
        messages, prompt, turn = conversation.messages, None, text
        if at > 0:  # Templates render no empty conversation.
            prompt, _ = self._text(template, conversation, messages[:at], prompt=True)
        if at < len(messages) - 1:
            turn, _ = self._text(template, conversation, messages[: at + 1])
        is_start_known = prompt is not None and text.startswith(prompt)
        is_end_known = text.startswith(turn)
        if is_start_known and is_end_known:
            return self._without_break(text, (len(prompt or ""), len(turn)))
        start, end = self._by_fillers(template, conversation, at, text)
        start = len(prompt or "") if is_start_known else start
        if is_end_known:
            return self._without_break(text, (start, len(turn)))
        return self._with_end(text, (start, end))

    def _by_fillers(self, template: str, conversation: Conversation, at: int, text: str) -> Span:
        before, after = len(text), len(text)
        for filler in _FILLERS:
            messages = list(conversation.messages)
            messages[at] = {"role": "assistant", "content": filler}
            other, _ = self._text(template, conversation, messages)
            if filler not in other:
                raise DataError(
                    f"the chat template does not show messages[{at}], so its tokens cannot be told; "
                    "set a chat_template with {% generation %} marks"
                )
            before = min(before, _num_shared(text, other))
            after = min(after, _num_shared(text[::-1], other[::-1]))
        return before, max(before, len(text) - after)

    def _without_break(self, text: str, span: Span) -> Span:
        """Leave out what a template puts after the end-of-turn token (a line break): the model never writes it."""
        start, end = span
        closed = text[start:end].rstrip()
        return start, start + len(closed) if closed.endswith(self._special) else end

    def _with_end(self, text: str, span: Span) -> Span:
        """Take in the end-of-turn token that follows a turn, unless the turn already ends with one."""
        start, end = span
        if text[start:end].rstrip().endswith(self._special):
            return span
        following = next((token for token in self._special if text.startswith(token, end)), "")
        return start, end + len(following)

    def _text(
        self,
        template: str,
        conversation: Conversation,
        messages: Sequence[Message],
        *,
        prompt: bool = False,
        marks: bool = False,
    ) -> tuple[str, list[Span]]:
        render: Any = render_jinja_template  # Its annotations say something else than it returns.
        with refusal_told("conversation", "correct the row, or set another chat_template"):
            texts, spans = render(
                conversations=[list(messages)],
                tools=conversation.tools,
                chat_template=template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks,
                **self._tokenizer.special_tokens_map,
            )
        return texts[0], list(spans[0]) if marks else []


def _num_shared(first: str, second: str) -> int:
    """Characters that two texts start with alike."""
    return next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
