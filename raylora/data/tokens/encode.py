"""An example becomes token ids and, for each token, whether the loss is counted on it, and how much.

Enters: a Conversation, a Passage, a Pair or a Rated. Leaves: Encoded. Called by tokenise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Example, Pair, Passage, Rated
from raylora.data.tokens.chat import ChatTemplate, Span
from raylora.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """One row in tokens.

    Args:
        input_ids: Token ids.
        is_label: For each token, whether the model is to learn to write it.
        split_at: Of a pair, where the second answer's text starts; 0 where there is one text.
        is_desirable: Of a rated answer, whether it is desirable.
        classes: Of each token with loss, where a class is to be learned and not the token itself.
        values: What goes into the model where ids do not, such as an image's pixels; ids then only count.
        weights: How much each token counts in the loss, above 0 to 1 where it does; empty where all count in full. Of a
            pair whose prompt is learned too, 1 where a token is the answer's, by which it is judged, and 0 elsewhere.
    """

    input_ids: list[int]
    is_label: list[bool]
    split_at: int = 0
    is_desirable: bool = False
    classes: tuple[int, ...] = ()
    values: NDArray[np.float32] | None = None
    weights: tuple[float, ...] = ()

    @property
    def num_labels(self) -> int:
        """Tokens with loss."""
        return sum(self._of_texts(self.is_label))

    @property
    def learns(self) -> bool:
        """Whether each text has tokens with loss, which of a pair are its answer's."""
        return all(self._of_texts([weight > 0 for weight in self.weights] or self.is_label))

    def cut(self, num_tokens: int) -> Encoded:
        """Keep the first tokens; of a pair, those of both texts, half of them each unless one needs less."""
        if not self.split_at:
            return replace(
                self,
                input_ids=self.input_ids[:num_tokens],
                is_label=self.is_label[:num_tokens],
                weights=self.weights[:num_tokens],
            )
        num_second = len(self.input_ids) - self.split_at
        kept = min(self.split_at, max(num_tokens // 2, num_tokens - num_second))
        first, second = (
            slice(start, start + length) for start, length in ((0, kept), (self.split_at, num_tokens - kept))
        )
        return Encoded(
            self.input_ids[first] + self.input_ids[second],
            self.is_label[first] + self.is_label[second],
            kept,
            weights=self.weights[first] + self.weights[second],
        )

    def pieces(self, num_tokens: int) -> list[Encoded]:
        """Cut a text into pieces in order, of which nothing is lost.

        Args:
            num_tokens: Of each piece, at least 3 and fewer than the text has. The last may have fewer; where one token
                would be left for it, which teaches nothing alone, it takes one more of the piece before.
        """
        end = len(self.input_ids)
        starts = list(range(0, end, num_tokens))
        if end - starts[-1] == 1:
            starts[-1] -= 1
        cuts = (slice(*bounds) for bounds in pairwise([*starts, end]))
        return [replace(self, input_ids=self.input_ids[cut], is_label=self.is_label[cut]) for cut in cuts]

    def _of_texts(self, marks: Sequence[bool]) -> list[int]:
        """Marks of each text but of its first token, which has no loss: nothing comes before it to predict it from."""
        bounds = [0, self.split_at, len(marks)] if self.split_at else [0, len(marks)]
        return [sum(marks[start + 1 : end]) for start, end in pairwise(bounds)]


class Encoder:
    """Encodes the rows of one run.

    Args:
        tokenizer: The base's tokenizer with the run's chat template.
        train_on_inputs: Whether the loss is counted on every token; of a pair, on those of the chosen text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, train_on_inputs: bool = False) -> None:
        self._tokenizer = tokenizer
        self._chat = ChatTemplate(tokenizer)
        self._train_on_inputs = train_on_inputs

    def encode(self, example: Example) -> Encoded:
        """Encode one example.

        A conversation is what the chat template makes of it. A passage starts with the token that the tokenizer
        itself puts first (bos), if any, and ends with eos, so that the model learns to stop. A pair is the one text
        after the other.

        Raises:
            DataError: The chat template refuses the conversation, or does not tell messages with weights apart, or they
                have weights and every token is to be learned; or the tokenizer has no eos token.
        """
        if isinstance(example, Rated):
            return replace(self.encode(example.answer), is_desirable=example.is_desirable)
        if isinstance(example, Pair):
            return self._pair(example)
        assert isinstance(example, Conversation | Passage)  # what has classes goes to `labelled`
        encoded = self._text(example)
        return Encoded(encoded.input_ids, [True] * len(encoded.input_ids)) if self._train_on_inputs else encoded

    def _pair(self, pair: Pair) -> Encoded:
        """The prompt is learned once, with the chosen answer."""
        first, second = self._text(pair.chosen), self._text(pair.rejected)
        ids, split_at = first.input_ids + second.input_ids, len(first.input_ids)
        is_answer = first.is_label + second.is_label
        if not self._train_on_inputs:
            return Encoded(ids, is_answer, split_at)
        return Encoded(ids, [True] * split_at + second.is_label, split_at, weights=tuple(map(float, is_answer)))

    def _text(self, example: Conversation | Passage) -> Encoded:
        return self._conversation(example) if isinstance(example, Conversation) else self._passage(example)

    def _conversation(self, example: Conversation) -> Encoded:
        """Learn each turn by its weight; one of 0 is masked, so that weights of 0 and 1 leave no numbers."""
        if example.weights and self._train_on_inputs:
            raise DataError(
                "messages have weights, and train_on_inputs learns every token alike; set it to false, or remove them"
            )
        text, spans = self._chat.render(example)
        weights = example.turn_weights
        if not weights:
            return self._tokens(text, spans[example.num_given_turns :])
        if len(weights) != len(spans):
            raise DataError(
                f"messages have weights, and of {len(weights)} turns of the assistant the chat template marks "
                f"{len(spans)}; set a chat_template with one {{% generation %}} mark for each turn, or remove them"
            )
        learned = [(span, weight) for span, weight in zip(spans, weights, strict=True) if weight]
        return self._tokens(text, [span for span, _ in learned], [weight for _, weight in learned])

    def _tokens(self, text: str, spans: Sequence[Span], weights: Sequence[float] = ()) -> Encoded:
        """Tokenise the whole text, as inference does.

        Args:
            text: Of the row.
            spans: What is learned of it.
            weights: How much each span counts; none where all count in full.
        """
        check_characters(text)
        tokens = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = _places(text, tokens["offset_mapping"], spans)
        is_label = [place >= 0 for place in places]
        if all(weight == 1 for weight in weights):
            return Encoded(tokens["input_ids"], is_label)
        beside = tuple(weights[place] if place >= 0 else 0.0 for place in places)
        return Encoded(tokens["input_ids"], is_label, weights=beside)

    def _passage(self, passage: Passage) -> Encoded:
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if eos is None:
            raise DataError("the tokenizer has no eos token, so the model could not learn to stop; use type chat")
        whole = passage.prompt + passage.text
        encoded = self._tokens(whole, [(len(passage.prompt), len(whole))])
        ids, is_label = encoded.input_ids, encoded.is_label
        if bos is not None and self._tokenizer("").input_ids[:1] == [bos]:
            ids, is_label = [bos, *ids], [False, *is_label]
        if ids[-1:] != [eos]:
            ids, is_label = [*ids, eos], [*is_label, True]
        return Encoded(ids, is_label)


def check_characters(text: str) -> None:
    """Refuse what is no text, though JSON can spell it: half a character (a lone surrogate), of which no token is made.

    Args:
        text: To be tokenised.

    Raises:
        DataError: There is one; the message says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"the text holds half a character, in {around!a}; correct the row") from error


def _places(text: str, offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Which span each token belongs to, by its number; -1 for none.

    A token belongs to the span that its first character is in, white space before a word not counted: a token that
    joins the prompt's last space with the answer's first word is the answer's.
    """
    found, rest, nowhere = [], enumerate(spans), (-1, (len(text), len(text)))
    number, (start, end) = next(rest, nowhere)
    num_read = 0
    for first, last in offsets:
        # Many tokenizers trim white space off the offsets; of a token of nothing else they leave nothing.
        first = first if first < last else num_read
        num_read = last
        first = next((at for at in range(first, last) if not text[at].isspace()), first)
        while first >= end < len(text):
            number, (start, end) = next(rest, nowhere)
        found.append(number if start <= first < end else -1)
    return found
