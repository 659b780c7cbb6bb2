"""A field's type enters, the words for what it allows leave: for error messages and for the reference."""

from __future__ import annotations

from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLAIN: dict[Any, str] = {Any: "a value", str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def allowed(field: FieldInfo) -> str:
    """Say what values a field takes, such as `a whole number of at least 1`."""
    return _allowed(field.annotation, field.metadata)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words a field allows, where it allows words only."""
    return tuple(str(value) for value in get_args(field.annotation)) if get_origin(field.annotation) is Literal else ()


def _allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allowed(args[0], args[1:])
    if origin in (Union, UnionType):
        return _either([_allowed(each) for each in args if each is not type(None)])
    if origin is Literal:
        return _either([str(value) for value in args])
    if origin is tuple:
        if args[-1] is not Ellipsis:
            return f"[{', '.join(_allowed(each) for each in args)}]"
        at_least = "a list of at least one " if _bounds(metadata).get(MinLen) else "a list of "
        return at_least + _allowed(args[0]).removeprefix("a ")
    if origin is dict:
        return f"names, each with {_allowed(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"group of {', '.join(annotation.model_fields)}"
    return _PLAIN[annotation] + _range(_bounds(metadata))


def _bounds(metadata: Iterable[Any]) -> dict[type, Any]:
    """Collect the bounds among a field's metadata, which pydantic nests in FieldInfo."""
    found: dict[type, Any] = {}
    for each in metadata:
        if isinstance(each, FieldInfo):
            found |= _bounds(each.metadata)
        for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt"), (MinLen, "min_length")):
            if isinstance(each, kind):
                found[kind] = getattr(each, name)
    return found


def _range(bounds: dict[type, Any]) -> str:
    parts = []
    if Ge in bounds:
        parts.append(f"of at least {bounds[Ge]:g}")
    if Gt in bounds:
        parts.append(f"above {bounds[Gt]:g}")
    if Lt in bounds:
        parts.append(f"below {bounds[Lt]:,}" if bounds[Lt] > 1 else f"below {bounds[Lt]:g}")
    if Le in bounds:
        parts.append(f"of at most {bounds[Le]:g}")
    return f" {' and '.join(parts)}" if parts else ""


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
