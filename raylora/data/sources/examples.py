"""What a row of a file becomes, by its type. Made by the readers of rows, taken by the encoders."""

from __future__ import annotations

from dataclasses import dataclass

from raylora.data.sources.conversation import Conversation


@dataclass(frozen=True)
class Passage:
    """Text to learn, after a prompt (possibly empty) that is read and not learned."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one first."""

    chosen: Conversation | Passage
    rejected: Conversation | Passage


@dataclass(frozen=True)
class Rated:
    """An answer to a prompt, and whether it is one that is wished for."""

    answer: Conversation | Passage
    is_desirable: bool


@dataclass(frozen=True)
class Classified:
    """A text and its class, by name or by number."""

    text: str
    label: str | int


@dataclass(frozen=True)
class Tagged:
    """Words and the class of each, by name or by number."""

    words: tuple[str, ...]
    tags: tuple[str | int, ...]


@dataclass(frozen=True)
class ClassifiedFile:
    """An image or a recording, by column: as the bytes of its file or as its path; and its class, by name or number."""

    column: str
    content: bytes | str
    label: str | int


Example = Conversation | Passage | Pair | Rated | Classified | Tagged | ClassifiedFile
