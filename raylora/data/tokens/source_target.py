"""An example becomes the tokens of a source and of its target, for models that read one text and write another.

Enters: a Passage. Leaves: Encoded, the target behind the source, split as a pair is. Called by tokenise, in the place
of `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast
from typing_extensions import override

from raylora.data.sources.examples import Example, Passage
from raylora.data.tokens.encode import Encoded, check_characters
from raylora.errors import DataError

START = 0
"""In the place of the token that the decoder starts with, which the model's config says: the target's first one."""


@dataclass(frozen=True)
class SourceTarget(Encoded):
    """A source, and from `split_at` on its target, which is all learned.

    Args:
        num_last: Tokens that the tokenizer puts behind a source, which stay where it is cut.
    """

    num_last: int = 0

    @classmethod
    def of(cls, source: list[int], target: list[int], num_last: int) -> SourceTarget:
        """Join both.

        Args:
            source: Tokens of the source.
            target: Tokens of the target, with `START` before them.
            num_last: As of the class.
        """
        is_label = [False] * (len(source) + 1) + [True] * (len(target) - 1)
        return cls([*source, *target], is_label[: len(source) + len(target)], len(source), num_last=num_last)

    @property
    @override
    def learns(self) -> bool:
        return self.split_at > 0 and self.num_labels > 0

    @override
    def cut(self, num_tokens: int) -> SourceTarget:
        num_kept = super().cut(num_tokens).split_at
        source, target = self.input_ids[: self.split_at], self.input_ids[self.split_at :]
        first, last = max(0, num_kept - self.num_last), len(source) - self.num_last
        kept = [*source[:first], *source[last:]][:num_kept]
        return SourceTarget.of(kept, target[: num_tokens - num_kept], self.num_last)


class TargetEncoder:
    """Encodes the rows of a run whose model reads a source and writes a target.

    Args:
        tokenizer: The base's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def encode(self, example: Example) -> Encoded:
        """Encode one example.

        The prompt is the source, the completion the target. Both have the tokens that the tokenizer itself puts around
        them, and the target ends with eos, so that the model learns to stop.

        Raises:
            DataError: The source has no tokens but the tokenizer's, or the tokenizer has no eos token.
        """
        assert isinstance(example, Passage)  # the rules let no other types in
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise DataError("the tokenizer has no eos token, so the model could not learn to stop; take another base")
        for text in (example.prompt, example.text):
            check_characters(text)
        given = self._tokenizer(example.prompt, return_special_tokens_mask=True, verbose=False)
        source, is_own = given["input_ids"], given["special_tokens_mask"]
        if all(is_own):
            raise DataError("the prompt has no tokens of its own; remove the row, or map the right column")
        num_last = next((number for number, own in enumerate(reversed(is_own)) if not own), 0)
        target = self._tokenizer(text_target=example.text, verbose=False)["input_ids"]
        end = [] if target[-1:] == [eos] else [eos]
        return SourceTarget.of(source, [START, *target, *end], num_last)
