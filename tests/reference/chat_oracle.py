"""Chats written by hand: each template's text in pieces, and whether the assistant wrote them.

No Jinja, no prefixes, no character offsets: pieces are joined, tokens are turned back into bytes, and a token is
learned if its first byte that is not white space (or its first, if all are) is in a learned piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

Piece = tuple[str, bool]
Messages = list[dict[str, str]]


def learned_tokens(tokenizer: PreTrainedTokenizerFast, pieces: list[Piece]) -> tuple[list[int], list[bool]]:
    """Token ids of the joined pieces, and which of them are learned."""
    text = "".join(piece for piece, _ in pieces).encode()
    is_learned_byte = [learned for piece, learned in pieces for _ in piece.encode()]
    input_ids = tokenizer("".join(text for text, _ in pieces), add_special_tokens=False).input_ids
    learned, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(input_ids):
        end = at + num_bytes(token)
        word = [byte for byte in range(at, end) if not text[byte : byte + 1].isspace()]
        learned.append(is_learned_byte[word[0] if word else at])
        at = end
    assert at == len(text)
    return input_ids, learned


def weighed_tokens(
    tokenizer: PreTrainedTokenizerFast, pieces: list[Piece], weights: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Token ids of the joined pieces, and how much each counts: as the learned piece does that it is in, in order."""
    learned = [at for at, (_, is_learned) in enumerate(pieces) if is_learned]
    assert len(learned) == len(weights)
    input_ids, _ = learned_tokens(tokenizer, pieces)
    found = [0.0] * len(input_ids)
    for place, weight in zip(learned, weights, strict=True):
        alone = [(text, at == place) for at, (text, _) in enumerate(pieces)]
        for token, is_in in enumerate(learned_tokens(tokenizer, alone)[1]):
            found[token] += weight * is_in
    return input_ids, found


def num_bytes(token: str) -> int:
    """Bytes of text behind a byte-level token: each of its characters stands for one, unless it is a special token."""
    is_bytes = set(token) <= set(pre_tokenizers.ByteLevel.alphabet())
    return len(token) if is_bytes else len(token.encode())


def chatml(messages: Messages, default: str = "You help.") -> list[Piece]:
    pieces = [] if messages[0]["role"] == "system" else [(f"<|im_start|>system\n{default}<|im_end|>\n", False)]
    return pieces + _chatml_turns(messages, lambda message, _: message["content"])


def marked(messages: Messages) -> list[Piece]:
    return _chatml_turns(messages, lambda message, _: message["content"])


def llama(messages: Messages) -> list[Piece]:
    pieces: list[Piece] = [("<|bos|>", False)]
    for message in messages:
        header = f"<|header|>{message['role']}<|end_header|>\n\n"
        pieces += [(header, False), (f"{message['content'].strip()}<|eot|>", message["role"] == "assistant")]
    return pieces


def reasoning(messages: Messages) -> list[Piece]:
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=0)

    def written(message: dict[str, str], at: int) -> str:
        if message["role"] != "assistant":
            return message["content"]
        *thoughts, answer = message["content"].split("</think>")
        thought = thoughts[0].replace("<think>", "") if thoughts else ""
        return (f"<think>\n{thought}\n</think>\n" if at > last else "") + answer

    return _chatml_turns(messages, written)


def opened(messages: Messages) -> list[Piece]:
    pieces: list[Piece] = []
    for message in messages:
        header = f"<|header|>{message['role']}<|end_header|>"
        pieces += [(header, False), (f"{message['content']}<|eot|>", message["role"] == "assistant")]
    return pieces


def plain(messages: Messages) -> list[Piece]:
    pieces: list[Piece] = []
    for message in messages:
        pieces += [(f"{message['role']}:\n", False), (f"{message['content']}\n", message["role"] == "assistant")]
    return pieces


def _chatml_turns(messages: Messages, written: Callable[[dict[str, str], int], str]) -> list[Piece]:
    pieces: list[Piece] = []
    for at, message in enumerate(messages):
        pieces += [
            (f"<|im_start|>{message['role']}\n", False),
            (f"{written(message, at)}<|im_end|>", message["role"] == "assistant"),
            ("\n", False),
        ]
    return pieces


WRITERS: dict[str, Callable[[Messages], list[Piece]]] = {
    "chatml": chatml,
    "llama": llama,
    "marked": marked,
    "reasoning": reasoning,
    "opened": opened,
    "plain": plain,
}
