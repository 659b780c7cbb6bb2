"""Masks of chats against chats written by hand, template by template."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.data.sources.conversation import Conversation, read_conversation
from raylora.data.tokens.chat import ChatTemplate
from raylora.data.tokens.encode import Encoder
from tests.reference.chat_oracle import WRITERS, Messages, learned_tokens, weighed_tokens
from tests.unit.data.small_tokenizer import TEMPLATES, small_tokenizer

TEXTS = st.text(st.sampled_from("ab 01X\n.é🙂<|"), max_size=12)


@st.composite
def conversations(draw: st.DrawFn) -> Messages:
    """A system message or none, questions and answers, sometimes two of one role in a row."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=5))
    if draw(st.booleans()):
        roles = ["system", *roles]
    return [{"role": role, "content": draw(TEXTS)} for role in roles]


@st.composite
def thoughtful(draw: st.DrawFn) -> Messages:
    """Conversations whose answers may carry reasoning; each starts with a question."""
    messages: Messages = []
    for _ in range(draw(st.integers(1, 3))):
        thought = f"<think>{draw(TEXTS)}</think>" if draw(st.booleans()) else ""
        answer = {"role": "assistant", "content": thought + draw(TEXTS)}
        messages += [{"role": "user", "content": draw(TEXTS)}, answer]
    return messages


def check(template: str, messages: Messages) -> None:
    tokenizer = small_tokenizer(TEMPLATES[template])
    input_ids, learned = learned_tokens(tokenizer, WRITERS[template](messages))
    encoded = Encoder(tokenizer).encode(Conversation([dict(message) for message in messages]))
    assert encoded.input_ids == input_ids
    assert encoded.is_label == learned


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"reasoning"}))
@settings(max_examples=60)
@given(messages=conversations())
def test_the_mask_is_what_the_assistant_wrote(template: str, messages: Messages):
    check(template, messages)


@settings(max_examples=60)
@given(messages=thoughtful())
def test_the_mask_holds_where_a_template_rewrites_earlier_turns(messages: Messages):
    check("reasoning", messages)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_fillers_are_for_templates_that_prefixes_cannot_mask(template: str, monkeypatch: pytest.MonkeyPatch):
    """So the tests above test all three ways: marks, prefixes and fillers."""
    taken: list[str] = []
    by_fillers = ChatTemplate._by_fillers
    monkeypatch.setattr(ChatTemplate, "_by_fillers", lambda *args: taken.append("fillers") or by_fillers(*args))
    question, answer = {"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>2</think>3"}
    check(template, [question, answer, question, answer])
    assert bool(taken) == (template in ("reasoning", "opened"))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@settings(max_examples=40)
@given(data=st.data())
def test_a_token_has_the_weight_of_its_turn(template: str, data: st.DataObject):
    messages = data.draw(thoughtful() if template == "reasoning" else conversations())
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    weights = {at: data.draw(st.sampled_from([None, 0, 1, 0.25, 0.5])) for at in answers}
    weighted = [{**message, "weight": weights.get(at)} for at, message in enumerate(messages)]
    tokenizer = small_tokenizer(TEMPLATES[template])
    encoded = Encoder(tokenizer).encode(read_conversation({"messages": weighted, "tools": None}))
    counted = [1.0 if weight is None else weight for weight in weights.values()]
    input_ids, wanted = weighed_tokens(tokenizer, WRITERS[template](messages), counted)
    assert encoded.input_ids == input_ids
    assert encoded.is_label == [weight > 0 for weight in wanted]
    assert list(encoded.weights) == (wanted if set(counted) - {0, 1} else [])
