"""Adapters over one base, in its slots or in PEFT's modules: whichever is asked answers.

A base, placed, and its adapters enter; answers leave, whole and word by word. Made by `opening`, and called
by the commands that generate with stored adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteriaList, TextStreamer
from typing_extensions import override

from raylora.data.tokens.chat import refusal_told
from raylora.errors import InputError
from raylora.model.rows.route import Span
from raylora.model.rows.seed import stable_seed
from raylora.train.sample import Chat, as_text, encode
from raylora.train.trainee import Trainee

if TYPE_CHECKING:
    from raylora.adapters.peft_seat import PeftSeat


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Args:
        max_new_tokens: Its longest, at least 1; less where the base has fewer positions left.
        temperature: 0 takes the likeliest token each time; above 0 tokens are drawn.
        top_p: They are drawn from the likeliest that have this probability together, above 0 to 1.
        seed: Of the draw: the same adapter, messages and seed give the same answer.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What was written.

    Args:
        text: Without special tokens and without white space around it.
        num_tokens: Tokens generated, the one that ends an answer included.
    """

    text: str
    num_tokens: int


class Session:
    """A base and the adapters in its slots, or beside it in PEFT's own modules.

    Args:
        trainee: The base, placed.
        tokenizer: The base's.
        places: Of the adapters by their names: a slot of the trainee's bank, or a seat.
        end_ids: Tokens that end an answer.
    """

    def __init__(
        self,
        trainee: Trainee,
        tokenizer: PreTrainedTokenizerBase,
        places: Mapping[str, int | PeftSeat],
        end_ids: Sequence[int],
    ) -> None:
        self._trainee, self._tokenizer, self._end_ids = trainee, tokenizer, list(end_ids)
        self._places = dict(places)
        trainee.train_mode(False)

    @property
    def names(self) -> list[str]:
        """Of the adapters, in the order in which they were given."""
        return list(self._places)

    @property
    def has_template(self) -> bool:
        """Whether the base has a chat template; without one it goes on with the text of the messages."""
        return bool(self._tokenizer.chat_template)

    @property
    def positions(self) -> int | None:
        """Tokens that the base can take, messages and answer together; ``None`` where it does not say."""
        found: int | None = getattr(self._trainee.model.config.get_text_config(), "max_position_embeddings", None)
        return found

    def check(self, chat: Chat) -> None:
        """Refuse messages that leave no room for an answer.

        Raises:
            InputError: They are too long, or the chat template refuses them.
        """
        self._room(self._ids(chat))

    def fit(self, chat: Chat, options: Options) -> list[Mapping[str, str]]:
        """Leave out the oldest turns of a conversation until there is room for an answer.

        A system's message and the last question stay. Room is what the options ask for, or half of the positions.

        Args:
            chat: The conversation.
            options: `max_new_tokens` counts.

        Raises:
            InputError: The chat template refuses the messages.
        """
        kept = list(chat)
        if self.positions is None:
            return kept
        longest = self.positions - min(options.max_new_tokens, self.positions // 2)
        while self._ids(kept).shape[1] > longest and (shorter := _without_oldest_turn(kept)):
            kept = shorter
        return kept

    @torch.no_grad()
    def answer(
        self,
        name: str | None,
        chat: Chat,
        options: Options,
        tell: Callable[[str], None] | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> Answer:
        """Answer the last of some messages.

        Args:
            name: Whose adapter answers; ``None`` for the base without any.
            chat: The conversation so far.
            options: How the answer is written.
            tell: Given the text word by word, as it is generated.
            is_stopped: Asked after each token whether to write no more.

        Raises:
            InputError: There is no such adapter, the messages are too long, or the chat template refuses them.
        """
        if name is not None and name not in self._places:
            raise InputError(f"adapter: {name!r} is not open. Open: {', '.join(self._places) or 'none'}")
        device = self._trainee.device
        ids_1T = self._ids(chat)
        num_asked, room = ids_1T.shape[1], self._room(ids_1T)
        generate: Any = self._trainee.model.generate  # transformers' decorators hide that it can be called
        # Who draws elsewhere in this process goes on as if nothing had been drawn here.
        with self._answering(name), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(stable_seed("answer", options.seed))
            output = generate(
                input_ids=ids_1T.to(device),
                attention_mask=torch.ones_like(ids_1T).to(device),
                max_new_tokens=options.max_new_tokens if room is None else min(options.max_new_tokens, room),
                eos_token_id=self._end_ids or None,
                pad_token_id=self._tokenizer.pad_token_id,
                streamer=None if tell is None else _Streamer(self._tokenizer, tell),
                stopping_criteria=None if is_stopped is None else StoppingCriteriaList([_stops(is_stopped)]),
                **_draw(options),
            )
        written_T = output[0, num_asked:]
        text = str(self._tokenizer.decode(written_T, skip_special_tokens=True))
        return Answer(text.strip(), len(written_T))

    @contextmanager
    def _answering(self, name: str | None) -> Iterator[None]:
        """Let passes of the base within be those of an adapter, or of the base alone."""
        place = None if name is None else self._places[name]
        self._trainee.bank.route([Span(place)] if isinstance(place, int) else [])
        with nullcontext() if place is None or isinstance(place, int) else place.in_place():
            yield

    def _ids(self, chat: Chat) -> Tensor:
        with refusal_told("messages", "leave out what it does not know, such as a system's message"):
            text = as_text(self._tokenizer, chat)
        ids_1T: Tensor = encode(self._tokenizer, [text])["input_ids"]
        return ids_1T

    def _room(self, ids_1T: Tensor) -> int | None:
        """Tokens that an answer can have, ``None`` for any number."""
        if self.positions is None:
            return None
        room = self.positions - ids_1T.shape[1]
        if room < 1:
            raise InputError(
                f"prompt: {ids_1T.shape[1]} tokens with the chat template's own, and the base has {self.positions} "
                f"positions. Allowed: at most {self.positions - 1} tokens. Shorten it"
            )
        return room


class _Streamer(TextStreamer):
    """Hands text on instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._tell = tell

    @override
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._tell(text)


def _stops(is_stopped: Callable[[], bool]) -> Callable[..., Tensor]:
    def stop(ids_BT: Tensor, scores: object, **_: object) -> Tensor:
        return torch.full((len(ids_BT),), is_stopped(), dtype=torch.bool, device=ids_BT.device)

    return stop


def _draw(options: Options) -> dict[str, Any]:
    if options.temperature == 0:
        return {"do_sample": False}
    # Transformers would draw from the 50 likeliest if nothing else were said.
    return {"do_sample": True, "temperature": float(options.temperature), "top_p": options.top_p, "top_k": 0}


def _without_oldest_turn(chat: Chat) -> list[Mapping[str, str]]:
    """A conversation from its second question on, nothing where there is none; a system's message stays."""
    first = 1 if chat[0]["role"] == "system" else 0
    later = (at for at in range(first + 1, len(chat)) if chat[at]["role"] == "user")
    second = next(later, None)
    return [] if second is None else [*chat[:first], *chat[second:]]
