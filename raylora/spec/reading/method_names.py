"""Names of methods in the place of a kind of adapter: `adapter: dora` is `adapter: lora` with `use_dora: true`.

A draft, or what a trial sets, enters with a name; raylora's own fields leave. Called where a run is read and by
`sweeps/`; the reference and the schema list the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from raylora.spec.reading.draft import Draft, Origin
from raylora.spec.text.show import show


@dataclass(frozen=True)
class Method:
    """What a name stands for.

    Args:
        adapter: The kind of adapter.
        field: The field that makes this method of it.
        value: Of the field where nothing else is given.
        holds: Whether a value of the field is this method's.
        why: Said with the value, where it is no matter of course.
    """

    adapter: str
    field: str
    value: Any
    holds: Callable[[Any], bool]
    why: str = ""


def _flag(field: str) -> Method:
    return Method("lora", field, True, lambda value: value is not False)


def _start(word: str) -> Method:
    return Method("lora", "init_lora_weights", word, lambda value: str(value).startswith(word))


METHODS: Mapping[str, Method] = {
    "dora": _flag("use_dora"),
    "rslora": _flag("use_rslora"),
    "loraplus": Method("lora", "loraplus_lr_ratio", 16, lambda value: value != 1, "its paper's advice"),
    **{word: _start(word) for word in ("pissa", "olora", "eva", "loftq")},
    "galore": Method("full", "optimizer", "galore_adamw", lambda value: value == "galore_adamw"),
}
"""Methods by name; LoRA+'s ratio is the one that its paper recommends, https://arxiv.org/abs/2402.12354."""


class Contradiction(ValueError):
    """A name, and beside it a field that says otherwise.

    Args:
        name: Of the method.
        given: Value of the field that makes it.
    """

    def __init__(self, name: str, given: Any) -> None:
        self.field = METHODS[name].field
        super().__init__(
            f"got {name}, which is {self.field}: {show(METHODS[name].value)}, with {self.field}: {show(given)} beside "
            "it; remove one of them"
        )


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a value of `adapter` is the name of a method."""
    return isinstance(value, str) and value in METHODS


def named(name: str, given: Any) -> dict[str, Any]:
    """Return the fields that a name stands for.

    Args:
        name: Of a method.
        given: What is set beside it for the field that makes the method; None where nothing is.

    Raises:
        Contradiction: It makes another.
    """
    method = METHODS[name]
    if given is not None and not method.holds(given):
        raise Contradiction(name, given)
    return {"adapter": method.adapter, method.field: method.value if given is None else given}


def meaning(name: str, given: Any = None) -> str:
    """Say what a name is read as.

    Args:
        name: As of `named`.
        given: As of `named`.
    """
    why = f" ({METHODS[name].why})" if METHODS[name].why and given is None else ""
    return ", ".join(f"{field}: {show(value)}" for field, value in named(name, given).items()) + why


def resolve_method(draft: Draft) -> None:
    """Put a draft's `adapter` into raylora's own fields where it names a method, or note why that cannot be."""
    name = draft.values.get("adapter")
    if not is_name(name):
        return
    path = (METHODS[name].field,)
    given = draft.value(path)
    try:
        fields = named(name, given)
    except Contradiction as error:
        draft.refuse(("adapter",), str(error))
        draft.refused.add(path)
        return
    draft.note(("adapter",), f"adapter: {show(name)} is read as {meaning(name, given)}")
    draft.values |= fields
    if given is None and (origin := draft.origins.get(("adapter",))) is not None:
        draft.origins[path] = Origin(origin.written, origin.line)
