"""An example becomes token ids and classes of some of them, for tasks whose model has a head.

Enters: a Classified text, Tagged words, or a Pair to be rewarded. Leaves: Encoded, whose labels are classes. A class of
a whole text is the label of its last token, where decoders are asked; a head that looks at a whole line takes it from
there. Called by tokenise, in the place of `encode`.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from transformers import PreTrainedTokenizerFast
from typing_extensions import override

from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Classified, Example, Pair, Passage, Tagged
from raylora.data.tokens.chat import ChatTemplate
from raylora.data.tokens.encode import Encoded, Encoder, check_characters
from raylora.errors import DataError

MOST_DIGITS = 9
"""Of the number of a class: Python makes no number of thousands."""


@dataclass(frozen=True)
class Words(Encoded):
    """A text of which some tokens have classes.

    Args:
        num_last: Tokens that the tokenizer puts behind a text, which stay where it is cut.
    """

    num_last: int = 0

    @property
    @override
    def num_labels(self) -> int:
        return sum(self.is_label)

    @property
    @override
    def learns(self) -> bool:
        return any(self.is_label)

    @override
    def cut(self, num_tokens: int) -> Words:
        kept = slice(max(0, num_tokens - self.num_last)), slice(len(self.input_ids) - self.num_last, None)
        ids, is_label = ([*of[kept[0]], *of[kept[1]]][:num_tokens] for of in (self.input_ids, self.is_label))
        return replace(self, input_ids=ids, is_label=is_label, classes=self.classes[: sum(is_label)])


@dataclass(frozen=True)
class ClassedTexts(Encoded):
    """A text with a class, or a pair of texts, each of which has one.

    Args:
        num_last: As of `Words`.
        pad_id: Token that pads: a text's last token is the last other one, as transformers sees it.
    """

    num_last: int = 0
    pad_id: int | None = None

    @classmethod
    def of(
        cls, ids: Sequence[int], classes: tuple[int, ...], pad_id: int | None, split_at: int = 0, num_last: int = 0
    ) -> ClassedTexts:
        """Label the end of each text.

        Args:
            ids: Tokens of the text, or of both.
            classes: Of each text.
            pad_id: As of the class.
            split_at: As of `Encoded`.
            num_last: As of the class.
        """
        is_label = [False] * len(ids)
        for start, end in pairwise([0, split_at, len(ids)] if split_at else [0, len(ids)]):
            last = next((at for at in range(end - 1, start - 1, -1) if ids[at] != pad_id), end - 1)
            is_label[last] = True
        return cls(list(ids), is_label, split_at, classes=classes, num_last=num_last, pad_id=pad_id)

    @property
    @override
    def num_labels(self) -> int:
        return len(self.classes)

    @property
    @override
    def learns(self) -> bool:
        return bool(self.input_ids)

    @override
    def cut(self, num_tokens: int) -> ClassedTexts:
        if self.split_at:
            kept = super().cut(num_tokens)
            return ClassedTexts.of(kept.input_ids, self.classes, self.pad_id, kept.split_at)
        first, last = max(0, num_tokens - self.num_last), len(self.input_ids) - self.num_last
        ids = [*self.input_ids[:first], *self.input_ids[last:]][:num_tokens]
        return ClassedTexts.of(ids, self.classes, self.pad_id, num_last=self.num_last)


class LabelEncoder:
    """Encodes the rows of a run whose model has a head.

    Args:
        tokenizer: The base's tokenizer with the run's chat template.
        labels: Names of the classes; none where texts are rewarded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> None:
        self._tokenizer, self._labels = tokenizer, labels
        self._answers, self._chat = Encoder(tokenizer), ChatTemplate(tokenizer)

    def encode(self, example: Example) -> Encoded:
        """Encode one example.

        A text has the tokens that the tokenizer itself puts around it. Words are joined by spaces, and the first token
        of each has its class. A pair's texts are those of `Encoder`, or of an encoder's tokenizer.

        Raises:
            DataError: A class is none of the run's, a text has no tokens, or the chat template refuses a conversation.
        """
        if isinstance(example, Classified):
            ids, num_last, _ = self._tokens(example.text)
            classes = (class_number(example.label, self._labels, "label"),)
            return ClassedTexts.of(ids, classes, self._pad_id, num_last=num_last)
        if isinstance(example, Tagged):
            return self._words(example)
        assert isinstance(example, Pair)
        first, second = (self._rewarded(each) for each in (example.chosen, example.rejected))
        return ClassedTexts.of([*first, *second], (0, 0), self._pad_id, len(first))

    @property
    def _pad_id(self) -> int | None:
        pad_id: int | None = self._tokenizer.pad_token_id
        return pad_id

    def _words(self, example: Tagged) -> Words:
        classes = [class_number(tag, self._labels, f"tags[{at}]") for at, tag in enumerate(example.tags)]
        text = " ".join(example.words)
        starts = [0, *accumulate(len(word) + 1 for word in example.words[:-1])]
        ids, num_last, offsets = self._tokens(text)
        is_label, found, last_word = [], [], -1
        for start, end in offsets:
            # Some tokenizers count a word's first token from the space before it.
            first = next((at for at in range(start, end) if not text[at].isspace()), None)
            word = -1 if first is None else bisect_right(starts, first) - 1
            is_label.append(word > last_word)
            if word > last_word:
                found.append(classes[word])
                last_word = word
        return Words(ids, is_label, classes=tuple(found), num_last=num_last)

    def _tokens(self, text: str) -> tuple[list[int], int, list[tuple[int, int]]]:
        """Ids, how many of the last ones the tokenizer has put there, and the characters of each."""
        check_characters(text)
        tokens = self._tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        ids, is_own = tokens["input_ids"], tokens["special_tokens_mask"]
        if not ids:
            raise DataError("the text has no tokens; remove the row, or map the right column")
        num_last = next((number for number, own in enumerate(reversed(is_own)) if not own), 0)
        return ids, num_last, tokens["offset_mapping"]

    def _rewarded(self, answer: Conversation | Passage) -> list[int]:
        """As `Encoder` has it; a tokenizer with a token for the class of a text (BERT) puts its own around it."""
        if self._tokenizer.cls_token_id is None:
            return self._answers.encode(answer).input_ids
        if isinstance(answer, Conversation):
            text, _ = self._chat.render(answer)
        else:
            text = answer.prompt + answer.text
        return self._tokens(text)[0]


def class_number(value: str | int, labels: Sequence[str], at: str) -> int:
    """The number of a class; a number that is itself a name is that name.

    Args:
        value: Name or number, as a row has it.
        labels: Names of the classes.
        at: Where in the row, for people.

    Raises:
        DataError: It is none of the classes.
    """
    if str(value) in labels:
        return labels.index(str(value))
    if (text := str(value)).isdecimal() and len(text) <= MOST_DIGITS and int(text) < len(labels):
        return int(text)
    close = difflib.get_close_matches(str(value), labels, n=1)
    nearest = f"; nearest: {close[0]}" if close else ""
    raise DataError(f"{at}: got {value!r}; allowed by labels: {', '.join(labels)}, or 0 to {len(labels) - 1}{nearest}")
