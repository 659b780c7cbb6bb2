"""Answers to the sample prompts, to be read side by side before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from raylora.model.route import Span
from raylora.train.build import Trainee


@torch.no_grad()
def answer(
    trainee: Trainee, slot: int, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Answer prompts greedily, through the chat template where there is one.

    Every rank generates the same: a sharded base is gathered for each token.

    Args:
        trainee: The base.
        slot: Whose adapter answers.
        tokenizer: The base's tokenizer.
        prompts: Questions of a user.
        max_new_tokens: Longest answer, at least 1.

    Returns:
        One answer a prompt, without the prompt.
    """
    if not prompts:
        return []
    trainee.train_mode(False)
    trainee.bank.route([Span(slot)])
    encoded = _encode(tokenizer, prompts).to(trainee.device)
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


def _encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> BatchEncoding:
    texts = [_as_chat(tokenizer, prompt) if tokenizer.chat_template else prompt for prompt in prompts]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    encoded: BatchEncoding = tokenizer(
        texts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template
    )
    tokenizer.padding_side = side
    return encoded


def _as_chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    chat = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
