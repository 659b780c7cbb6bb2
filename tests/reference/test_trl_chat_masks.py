"""Masks of real models' templates against the copies of them that TRL's authors marked by hand.

raylora reads the model's own template, without marks; TRL's copy says with `{% generation %}` what the assistant
writes. TRL learns the turn's header too in some of them; raylora never does, since the prompt already holds it.
"""

from __future__ import annotations

import importlib.util
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from raylora.data.sources.conversation import Conversation, Message
from raylora.data.tokens.encode import Encoder
from tests.servers.lacking import lacking
from tests.unit.data.small_tokenizer import small_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
TURN = [{"role": "user", "content": "What is 1 + 2?"}, {"role": "assistant", "content": "It is 3."}]
CALL = [
    {"role": "user", "content": "Add 1 and 2."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    },
    {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
NUMBER = {"type": "integer", "description": "A number."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add numbers.",
            "parameters": {"type": "object", "properties": {"a": NUMBER}, "required": ["a"]},
        },
    }
]
CHATS: dict[str, tuple[list[Message], list[dict[str, Any]] | None]] = {
    "one turn": (TURN, None),
    "two turns": (TURN * 2, None),
    "system": ([SYSTEM, *TURN], None),
    "tools": (CALL, TOOLS),
}
CASES = [
    *((family, chat) for family in ("lfm2", "llama3", "qwen2_5", "qwen3_instruct_2507", "gptoss") for chat in CHATS),
    *((family, chat) for family in ("cohere", "gemma3", "deepseek_r1_distill") for chat in ("one turn", "two turns")),
    *((family, "system") for family in ("cohere", "qwen3")),
    *(("gemma", chat) for chat in ("one turn", "two turns")),
]
BAR = "[|\N{FULLWIDTH VERTICAL LINE}]"
CONTROL = re.compile(rf"<{BAR}[^<>{{}}'\" ]*{BAR}>|<(?:start|end)_of_turn>")


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.submodule_search_locations is None:
        lacking("TRL is not installed", "run `make setup`")
    template = (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    tokenizer = small_tokenizer(template)
    tokenizer.add_special_tokens({"extra_special_tokens": sorted(set(CONTROL.findall(template)))})
    return tokenizer


def learned_texts(tokenizer: PreTrainedTokenizerFast, input_ids: list[int], is_learned: list[int]) -> list[str]:
    """The text of each run of learned tokens, without the white space around it."""
    runs = groupby(zip(input_ids, is_learned, strict=True), key=lambda token: bool(token[1]))
    texts = [tokenizer.decode([token for token, _ in run]).strip() for learned, run in runs if learned]
    return [text for text in texts if text]


@pytest.mark.parametrize(("family", "chat"), CASES)
def test_masks_are_those_of_the_marked_copy_without_the_prompt(family: str, chat: str):
    messages, tools = CHATS[chat]
    tokenizer, marked = tokenizer_of(family), tokenizer_of(f"{family}_training")
    encoded = Encoder(tokenizer).encode(Conversation(messages, tools))
    ours = learned_texts(tokenizer, encoded.input_ids, encoded.is_label)
    them = marked.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    theirs = learned_texts(marked, them["input_ids"], them["assistant_masks"])
    prompt = tokenizer.apply_chat_template(messages[:1], tools=tools, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(encoded.input_ids) == marked.decode(them["input_ids"])
    assert len(ours) == len(theirs) == sum(message["role"] == "assistant" for message in messages)
    for our, their in zip(ours, theirs, strict=True):
        assert their.endswith(our)
        assert their.removesuffix(our).strip() in prompt
