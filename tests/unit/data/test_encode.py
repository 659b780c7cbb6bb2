"""Passages, cuts and templates that cannot be used; masks of chats are in tests/reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Passage
from raylora.data.tokens.encode import Encoded, Encoder
from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.errors import DataError, ModelError
from tests.unit.data.small_tokenizer import CHATML, LLAMA, MARKED, saved, small_tokenizer

TEXTS = st.text(st.sampled_from("ab 1\n.é🙂"), max_size=12)
CHAT = Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


@given(prompt=TEXTS, text=TEXTS, adds_bos=st.booleans())
def test_a_passage_learns_its_text_and_its_end(prompt: str, text: str, adds_bos: bool):
    tokenizer = small_tokenizer(adds_bos=adds_bos)
    encoded = Encoder(tokenizer).encode(Passage(prompt, text))
    ids = tokenizer(prompt + text).input_ids  # as inference does, bos and all
    assert encoded.input_ids == [*ids, tokenizer.eos_token_id]
    learned = tokenizer.decode([i for i, learn in zip(encoded.input_ids, encoded.is_label, strict=True) if learn])
    # A token may hold the prompt's last white space and the text's first word, or white space of both.
    assert learned.lstrip() == f"{text}<|im_end|>".lstrip()
    assert encoded.is_label == sorted(encoded.is_label)


def test_an_end_that_is_there_is_not_doubled():
    tokenizer = small_tokenizer()
    encoded = Encoder(tokenizer).encode(Passage("p", "c<|im_end|>"))
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 1
    assert encoded.is_label[-1]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_train_on_inputs_learns_every_token(template: str):
    tokenizer = small_tokenizer(template)
    encoded = Encoder(tokenizer, train_on_inputs=True).encode(CHAT)
    assert encoded.input_ids == Encoder(tokenizer).encode(CHAT).input_ids
    assert all(encoded.is_label)


def test_the_first_token_is_never_learned():
    assert Encoded([1, 2, 3], [True, False, True]).num_labels == 1
    assert Encoded([1, 2, 3], [True, True, True]).cut(2) == Encoded([1, 2], [True, True])


def test_no_template_and_no_end_are_said():
    with pytest.raises(DataError, match="no chat template; set chat_template"):
        Encoder(small_tokenizer(None)).encode(CHAT)
    tokenizer = small_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no eos token"):
        Encoder(tokenizer).encode(Passage("", "text"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
        ("{{ 1 + messages[0]['content'] }}", "refuses the conversation: TypeError: unsupported operand.*set another"),
        ("{% if messages %}", "refuses the conversation"),
        # The text of the first turn is told by no prefix, and is not shown.
        ("{{ messages | length }}", "does not show messages"),
    ],
)
def test_a_template_that_cannot_be_used_is_said(template: str, said: str):
    chat = Conversation([*CHAT.messages, *CHAT.messages])
    with pytest.raises(DataError, match=said):
        Encoder(small_tokenizer(template)).encode(chat)


def test_the_runs_template_replaces_the_tokenizers(tmp_path: Path):
    folder = saved(small_tokenizer(CHATML), tmp_path / "base")
    (tmp_path / "llama.jinja").write_text(LLAMA)
    own = load_tokenizer(folder)
    from_file = load_tokenizer(folder, str(tmp_path / "llama.jinja"))
    from_text = load_tokenizer(folder, LLAMA)
    assert own.chat_template == CHATML
    assert from_file.chat_template == from_text.chat_template == LLAMA
    assert tokenizer_digest(from_file) == tokenizer_digest(from_text) != tokenizer_digest(own)
    assert tokenizer_digest(own) == tokenizer_digest(load_tokenizer(folder))
    assert tokenizer_digest(small_tokenizer(adds_bos=True)) != tokenizer_digest(small_tokenizer())
    with pytest.raises(DataError, match=r"chat_template: nowhere\.jinja is neither Jinja text nor a file"):
        load_tokenizer(folder, "nowhere.jinja")
    with pytest.raises(DataError, match=r"^chat_template: no Jinja .*'endif'.*, line 2 of it\); correct it"):
        load_tokenizer(folder, "{% if messages %}\n{{ messages }}")
    with pytest.raises(ModelError, match=r"no tokenizer that can be loaded.*Save the tokenizer"):
        load_tokenizer(tmp_path)
