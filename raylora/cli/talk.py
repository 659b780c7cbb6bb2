"""What the commands that talk have in common: whom to talk to, how the base is held, how answers are written.

Typed words enter; every problem with them leaves at once, or an open session.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from raylora.cli.adapter import AdapterPlace, find_adapter
from raylora.cli.output import err
from raylora.errors import InputError, together
from raylora.spec.fields.holding import FIELDS, PLAIN

if TYPE_CHECKING:
    from raylora.adapters.stored import StoredAdapter
    from raylora.adapters.talking.session import Options, Session
    from raylora.model.source.source import BaseFolder

AdapterWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ADAPTER]...", help="Runs, sweeps (their best trials), SWEEP/TRIAL, or adapters' folders; of one base."
    ),
]
System = Annotated[str | None, typer.Option("--system", help="A message that says how to answer, before all others.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token each time; above 0 tokens are drawn.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens that have this probability together.")]
Seed = Annotated[int, typer.Option(help="Of the draw; the same seed gives the same answer.")]
In4Bit = Annotated[bool, typer.Option("--load-in-4bit", help="Hold the base in 4 bits, whatever the runs did.")]
In8Bit = Annotated[bool, typer.Option("--load-in-8bit", help="Hold the base in 8 bits, whatever the runs did.")]
Plain = Annotated[bool, typer.Option("--no-quantize", help="Hold the base unquantized, whatever the runs did.")]

HOLDINGS = {"--load-in-4bit": "nf4-double", "--load-in-8bit": "int8", "--no-quantize": PLAIN}
"""How the base is held, a key of `FIELDS`, by the options that ask for it."""


@dataclass(frozen=True)
class Typed:
    """What was typed.

    Args:
        words: Adapters.
        base: As ``base_model`` says it.
        store: Store of the runs.
        max_new_tokens: Longest answer.
        temperature: Of the draw.
        top_p: Of the draw.
        seed: Of the draw.
        holdings: Those of `HOLDINGS` that were given.
    """

    words: tuple[str, ...]
    base: str | None
    store: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    holdings: tuple[str, ...]

    def problems(self) -> list[InputError]:
        """All that is wrong with it before anything is looked up."""
        found = []
        if not self.words and self.base is None:
            found.append("ADAPTER: got none, and no --base. Allowed: adapters, or --base alone. Run `raylora runs`")
        if self.max_new_tokens < 1:
            found.append(f"--max-new-tokens: got {self.max_new_tokens}. Allowed: 1 or more, such as 128")
        if not 0 <= self.temperature < math.inf:  # NaN is neither
            found.append(f"--temperature: got {self.temperature:g}. Allowed: 0 or more, such as 0.7; 0 draws nothing")
        if not 0 < self.top_p <= 1:
            found.append(f"--top-p: got {self.top_p:g}. Allowed: above 0 and up to 1, such as 0.95")
        if len(self.holdings) > 1:
            found.append(f"{', '.join(self.holdings)}: these exclude each other. Leave all but one out")
        return [InputError(problem) for problem in found]

    def options(self) -> Options:
        """How answers are written."""
        from raylora.adapters.talking.session import Options

        return Options(self.max_new_tokens, self.temperature, self.top_p, self.seed)

    def open(self, problems: Sequence[InputError] = ()) -> Session:
        """Find the adapters and their base, and load it.

        Args:
            problems: What is wrong beside it, to be told with the rest.

        Raises:
            InputError: All that is wrong with the words and the adapters at once, before the base is looked for. Or it
                is not there, cannot be read, or the adapters do not fit it.
        """
        from raylora.adapters.talking.opening import open_session
        from raylora.adapters.trained_over import warn_of_other_holding
        from raylora.store.before_start import before_start

        with before_start(), err.status("opening adapters and base"):  # seen on a terminal alone
            places, adapters, word, template = self._read(problems)
            warn_of_other_holding(adapters, word)
            return open_session(self._base(places, adapters), adapters, FIELDS[word], template)

    def _read(
        self, problems: Sequence[InputError]
    ) -> tuple[dict[str, AdapterPlace], dict[str, StoredAdapter], str, str | None]:
        """Places and adapters by the words for them, how their base is held, and their runs' chat template."""
        from raylora.adapters.one_base import check_same_base
        from raylora.adapters.stored import read_adapter
        from raylora.adapters.trained_over import holding_of
        from raylora.store.before_start import Checks

        checks = Checks()
        checks.errors += [*self.problems(), *problems]
        found = [(word, checks.of(partial(find_adapter, word, self.store, self.base))) for word in self.words]
        places = {word: place for word, place in found if place is not None}
        template = checks.of(partial(_template, places))
        read = [(word, checks.of(partial(read_adapter, place.uri))) for word, place in places.items()]
        adapters = {word: adapter for word, adapter in read if adapter is not None}
        if self.base is None:
            checks.of(partial(check_same_base, adapters))
        holding = HOLDINGS[self.holdings[0]] if self.holdings else checks.of(partial(holding_of, adapters))
        if checks.errors or holding is None:
            raise together(checks.errors)
        return places, adapters, holding, template

    def _base(self, places: Mapping[str, AdapterPlace], adapters: Mapping[str, StoredAdapter]) -> BaseFolder:
        from raylora.adapters.base import BasePlace
        from raylora.adapters.one_base import open_one_base
        from raylora.store.home import cache_dir

        if self.base is not None:
            return open_one_base(adapters, BasePlace(self.base), cache_dir())
        known = (place.base for place in places.values() if place.base is not None)
        return open_one_base(adapters, next(known, None), cache_dir())


def messages_of(system: str | None, turns: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """A conversation as chat templates take it.

    Args:
        system: How to answer; ``None`` or empty for nothing said.
        turns: Of user and assistant.
    """
    return [*([{"role": "system", "content": system}] if system else []), *turns]


def holdings_of(in_4bit: bool, in_8bit: bool, plain: bool) -> tuple[str, ...]:
    """Names of the options that were given.

    Args:
        in_4bit: Whether ``--load-in-4bit`` was.
        in_8bit: Whether ``--load-in-8bit`` was.
        plain: Whether ``--no-quantize`` was.
    """
    return tuple(name for name, given in zip(HOLDINGS, (in_4bit, in_8bit, plain), strict=True) if given)


def _template(places: Mapping[str, AdapterPlace]) -> str | None:
    """The one chat template of the adapters' runs; ``None`` for the base's own. Folders take what the others do."""
    said = {word: place.chat_template for word, place in places.items() if place.spec is not None}
    if len(set(said.values())) > 1:
        each_one = ", ".join(f"{word}: {'its own' if own else 'that of the base'}" for word, own in said.items())
        raise InputError(
            f"chat_template: the adapters were trained with several ({each_one}). Allowed: one for all. Ask those of "
            "one at a time, or name the others by their folders"
        )
    return next((place.read_template() for place in places.values() if place.chat_template is not None), None)
