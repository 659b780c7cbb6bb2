"""What PEFT's code raises becomes an error of ours. Called wherever modules of PEFT's are made, filled or merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raylora.errors import ModelError


@contextmanager
def in_our_words(words: Callable[[str], str]) -> Iterator[None]:
    """Run PEFT's code within; an error of ours passes as it is.

    Args:
        words: From what PEFT said to the words of our error.

    Raises:
        ModelError: PEFT's code failed.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # PEFT's errors share no class: each type's code raises whatever comes up in it
        lines = [line.strip() for line in str(error).splitlines()]
        said = " ".join(lines[:2])  # torch says in the second what the first announces
        raise ModelError(words(f"{type(error).__name__}: {said}")) from error
