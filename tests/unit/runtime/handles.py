"""Objects of this process, called as Ray's handles of actors are; what an object has not cannot be called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Handle:
    """Answers where it is called.

    Args:
        actor: What is called.
    """

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._actor, name))


class NoRay:
    """Instead of `ray` in a module that calls such handles."""

    @staticmethod
    def get(answer: Any) -> Any:
        """The answer, which is there."""
        return answer

    @staticmethod
    def kill(actor: object) -> None:
        """Nothing to end."""
