"""Answers to the sample prompts, to be read side by side before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from raylora.data.tokens.chat import refusal_told
from raylora.model.rows.route import Span
from raylora.train.trainee import Trainee

Chat = Sequence[Mapping[str, str]]
"""Messages with a ``role`` and ``content``, in order."""


@torch.no_grad()
def answer(
    trainee: Trainee, slot: int, tokenizer: PreTrainedTokenizerBase | None, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Answer prompts greedily, through the chat template where there is one.

    Every rank generates the same: a sharded base is gathered for each token.

    Args:
        trainee: The base.
        slot: Whose adapter answers.
        tokenizer: The base's tokenizer; without one nothing is answered.
        prompts: Questions of a user.
        max_new_tokens: Longest answer, at least 1.

    Returns:
        One answer a prompt, without the prompt.

    Raises:
        DataError: The chat template refuses the prompts.
    """
    if not prompts or tokenizer is None:
        return []
    trainee.train_mode(False)
    trainee.bank.route([Span(slot)])
    with refusal_told("sample prompts", "leave sample_prompts out, or set another chat_template"):
        texts = [as_text(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    encoded = encode(tokenizer, texts).to(trainee.device)
    generate: Any = trainee.model.generate  # transformers' decorators hide that it can be called
    output = generate(
        **encoded,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    trainee.strategy.rest(trainee.model)
    trainee.train_mode(True)
    answers = output[:, encoded["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def as_text(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> str:
    """What a model is to go on with: the chat template's text, or without a template the messages, a line each.

    Args:
        tokenizer: The base's.
        chat: Its last message is the one to be answered.
    """
    if not tokenizer.chat_template:
        return "\n".join(message["content"] for message in chat)
    messages = [dict(message) for message in chat]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> BatchEncoding:
    """Ids and mask of texts, padded on the left where there are several.

    Args:
        tokenizer: The base's; its end of text pads where it has no token for it.
        texts: From `as_text`: a template has put the special tokens in.

    Shapes:
        ``input_ids`` and ``attention_mask``: (B, T).
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    encoded: BatchEncoding = tokenizer(
        list(texts), return_tensors="pt", padding=len(texts) > 1, add_special_tokens=not tokenizer.chat_template
    )
    tokenizer.padding_side = side
    return encoded
