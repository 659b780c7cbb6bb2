"""The command ``generate``: every prompt answered by every adapter, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from raylora.cli.adapter import BaseOption, StoreOption
from raylora.cli.output import Json, err, print_json
from raylora.cli.prompts import read_prompts
from raylora.cli.summary import print_answers
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
from raylora.errors import InputError, together

if TYPE_CHECKING:
    from raylora.adapters.talking.session import Answer, Session
    from raylora.train.sample import Chat

BASE = "(base)"
"""What the base alone is called in a table; in JSON its adapter is null."""


def generate(
    adapters: AdapterWords = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="What a user says; may be repeated.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help='More prompts: .txt, one a line, or .jsonl of {"prompt": "..."}.')
    ] = None,
    base: BaseOption = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="Let the base answer without an adapter too.")] = False,
    system: System = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    load_in_4bit: In4Bit = False,
    load_in_8bit: In8Bit = False,
    no_quantize: Plain = False,
    store: StoreOption = None,
    json_: Json = False,
) -> None:
    """Answer prompts with adapters, or with a base alone, which is loaded once for all of them."""
    holdings = holdings_of(load_in_4bit, load_in_8bit, no_quantize)
    asked = Typed(tuple(adapters or ()), base, store, max_new_tokens, temperature, top_p, seed, holdings)
    prompts, problems = _prompts(prompt or [], file)
    session = asked.open(problems)
    names: list[str | None] = [*([None] if with_base or not session.names else []), *session.names]
    chats = [messages_of(system, [{"role": "user", "content": text}]) for text in prompts]
    _check(session, chats)
    pairs = [(chat, name) for chat in chats for name in names]
    options = asked.options()
    found: list[Answer] = []
    start_s = perf_counter()
    for chat, name in track(pairs, "answering", console=err, transient=True, disable=not err.is_terminal):
        found.append(session.answer(name, chat, options))
    tokens_per_s = sum(answer.num_tokens for answer in found) / (perf_counter() - start_s)
    if json_:
        answers = [
            {"prompt": chat[-1]["content"], "adapter": name, "text": answer.text, "tokens": answer.num_tokens}
            for (chat, name), answer in zip(pairs, found, strict=True)
        ]
        print_json({"answers": answers, "tokens_per_s": tokens_per_s})
    elif len(names) == 1:
        _print_plainly(prompts, [answer.text for answer in found])
    else:
        columns = {name or BASE: [answer.text for answer in found[at :: len(names)]] for at, name in enumerate(names)}
        print_answers(prompts, columns)


def _prompts(said: Sequence[str], file: Path | None) -> tuple[list[str], list[InputError]]:
    """What is to be answered, and what is wrong with it."""
    prompts = list(said)
    problems: list[InputError] = []
    if not said and file is None:
        problems.append(InputError("--prompt: got none, and no --file. Allowed: at least one prompt"))
    if not all(text.strip() for text in said):
        problems.append(InputError("--prompt: got an empty text. Allowed: some text. Leave it out"))
    if file is not None:
        try:
            prompts += read_prompts(file)
        except InputError as error:
            problems.append(error)
    return prompts, problems


def _check(session: Session, chats: Sequence[Chat]) -> None:
    """Refuse all prompts without room for an answer before the first is answered."""
    errors = []
    for number, chat in enumerate(chats, start=1):
        try:
            session.check(chat)
        except InputError as error:
            errors.append(InputError(f"prompt {number} of {len(chats)}: {error}"))
    if errors:
        raise together(errors)


def _print_plainly(prompts: Sequence[str], texts: Sequence[str]) -> None:
    """One answer as it is; several below what they answer."""
    if len(texts) == 1:
        typer.echo(texts[0])
        return
    typer.echo("\n\n".join(f"> {prompt}\n{text}" for prompt, text in zip(prompts, texts, strict=True)))
