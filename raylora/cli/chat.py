"""The command ``chat``: a conversation with adapters that are switched while it goes on.

Lines of standard input enter, answers leave on standard output as they are written, and all else on standard error.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from raylora.cli.adapter import BaseOption, StoreOption
from raylora.cli.output import err, say
from raylora.cli.talk import (
    AdapterWords,
    In4Bit,
    In8Bit,
    Plain,
    Seed,
    System,
    Temperature,
    TopP,
    Typed,
    holdings_of,
    messages_of,
)
from raylora.errors import InputError

if TYPE_CHECKING:
    from raylora.adapters.talking.session import Options, Session

HELP = """\
/adapter NAME  switch to another adapter; the conversation goes on
/adapters      list the adapters that are open
/base          talk to the base without any
/system TEXT   say how to answer; without TEXT, say nothing of it
/reset         forget the conversation
/help          show this
/quit          end; so does Ctrl-D. Ctrl-C stops an answer, once more it ends"""


def chat(
    adapters: AdapterWords = None,
    base: BaseOption = None,
    system: System = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    load_in_4bit: In4Bit = False,
    load_in_8bit: In8Bit = False,
    no_quantize: Plain = False,
    store: StoreOption = None,
) -> None:
    """Talk to adapters, or to a base alone; /help lists what can be said beside questions."""
    holdings = holdings_of(load_in_4bit, load_in_8bit, no_quantize)
    asked = Typed(tuple(adapters or ()), base, store, max_new_tokens, temperature, top_p, seed, holdings)
    Talk(asked.open(), asked.options(), system).go_through(_typed())


class Talk:
    """A conversation and who answers in it.

    Args:
        session: The base and its adapters; the first answers first, or the base where there is none.
        options: How answers are written.
        system: How to answer.
    """

    def __init__(self, session: Session, options: Options, system: str | None = None) -> None:
        self._session, self._options, self._system = session, options, system
        self._name = next(iter(session.names), None)
        self._turns: list[Mapping[str, str]] = []
        self._is_cut = False

    def go_through(self, lines: Iterable[str]) -> None:
        """Answer lines and obey commands until ``/quit`` or the last line."""
        say(f"{self._who}; /help lists the commands", err)
        if not self._session.has_template:
            say("the base has no chat template: it goes on with the text of the conversation", err)
        for line in map(str.strip, lines):
            if line.startswith("/"):
                word, _, rest = line.partition(" ")
                if word == "/quit":
                    return
                self._obey(word, rest.strip())
            elif line:
                self._answer(line)

    @property
    def _who(self) -> str:
        return "the base answers" if self._name is None else f"{self._name} answers"

    def _obey(self, word: str, rest: str) -> None:
        match word:
            case "/adapter" if rest in self._session.names:
                self._name = rest
                say(self._who, err)
            case "/adapter":
                say(f"no adapter {rest!r} is open. Open: {', '.join(self._session.names) or 'none'}", err)
            case "/adapters":
                for name in self._session.names:
                    say(f"{'*' if name == self._name else ' '} {name}", err)
            case "/base":
                self._name = None
                say(self._who, err)
            case "/system":
                self._system = rest
                say("said before all else from now on" if rest else "nothing is said before all else", err)
            case "/reset":
                self._turns = []
                say("the conversation is forgotten", err)
            case "/help":
                say(HELP, err)
            case _:
                say(f"no command {word}; /help lists them", err)

    def _answer(self, text: str) -> None:
        turns = [*self._turns, {"role": "user", "content": text}]
        try:
            asked = self._session.fit(messages_of(self._system, turns), self._options)
            kept = [message for message in asked if message["role"] != "system"]
            if len(kept) < len(turns) and not self._is_cut:
                self._is_cut = True
                say("the conversation is longer than the base's positions: its oldest turns are left out", err)
            with _stopped_by_ctrl_c() as is_stopped:
                answer = self._session.answer(self._name, asked, self._options, _tell, is_stopped)
        except InputError as error:
            say(str(error), err)
            return
        typer.echo()
        self._turns = [*kept, {"role": "assistant", "content": answer.text}]


def _tell(text: str) -> None:
    typer.echo(text, nl=False)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Take Ctrl-C as a wish that the answer ends, and a second one as the wish that all ends."""
    presses: list[int] = []

    def press(number: int, frame: object) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(presses)
    finally:
        signal.signal(signal.SIGINT, before)


def _typed() -> Iterator[str]:
    """Lines of standard input, asked for where somebody sits before it."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):  # not on every system; with it a line can be edited and called back
            import readline  # noqa: F401
    while True:
        try:
            yield input("> " if is_terminal else "")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: not UTF-8 ({error}). Allowed: lines of UTF-8. Convert it") from error
