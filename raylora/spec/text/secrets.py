"""Passwords and tokens in addresses: found, left out, starred.

Before an `@` they may hold what else ends that part of an address, such as a slash: database drivers read them so. Pure.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_BEFORE_AT = r"[^:/\s@]*:[^\s@]*@(?:[^/?#\s]*@)?|[^/?#\s]*@"
"""User and password, or a token; what looks like a port before a path with an `@` is taken for one."""

_NAMES = r"[\w-]*(?:password|passwd|pwd|token|secret)[\w-]*"
"""Names of values in a query that are no one's business."""

_SECRET = re.compile(rf"https?://[^/\s]*@|://[^/\s@:]*:(?!\d{{1,5}}/)[^\s@]*@|[?&]{_NAMES}=[^&\s]", re.IGNORECASE)

_PASSWORD = re.compile(r"[^:/\s]+://[^:/\s@]*:([^\s@]*)@")


def has_secret(address: str) -> bool:
    """Whether an address carries a password, or a token."""
    return _SECRET.search(address) is not None


def without_secret(address: str) -> str:
    """Return an address as it may be shown: user and password are left out, and so is a query."""
    return re.split(r"[?#]", re.sub(rf"(?<=://)(?:{_BEFORE_AT})", "", address, count=1), maxsplit=1)[0]


def starred(text: str) -> str:
    """Return a text with stars in place of what stands before an `@`, and of secrets in a query."""
    text = re.sub(rf"://(?:{_BEFORE_AT})", "://***@", text)
    return re.sub(rf"([?&]{_NAMES}=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def secrets_of(address: str) -> list[str]:
    """The passwords and tokens of an address as they may come back in an error, the longest first."""
    parts, whole = urlsplit(address), _PASSWORD.match(address)
    found = {parts.password, whole[1] if whole else None}
    found |= {value for name, value in parse_qsl(parts.query) if re.fullmatch(_NAMES, name, re.IGNORECASE)}
    plain = {each for each in found if each}
    return sorted(plain | {unquote(each) for each in plain}, key=len, reverse=True)
