"""What a machine lacks for a test: the test is left out, or fails where somebody has said that none may be."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest

NEED_ALL = "RAYLORA_TESTS_NEED_ALL"
"""Set to 1 where tests are to be complete, as in `.ci/run`: a machine that changed must not go unnoticed."""

PRIVILEGE = "run the tests as root, in a container with the right to (CAP_SYS_ADMIN, CAP_NET_ADMIN)"


def lacking(what: str, remedy: str) -> NoReturn:
    """Leave the test out that asked for it.

    Args:
        what: Is not there.
        remedy: How it gets there.
    """
    if os.environ.get(NEED_ALL) == "1":
        pytest.fail(f"{what}; {remedy}, or set {NEED_ALL}=0 to leave such tests out", pytrace=False)
    pytest.skip(f"{what}; {remedy}")


def needs(package: str) -> pytest.MarkDecorator:
    """Leave a test out where a package is not installed; where none may be left out, it runs and fails for want of it.

    Args:
        package: That is imported; `make setup` installs it.
    """
    is_left_out = find_spec(package) is None and os.environ.get(NEED_ALL) != "1"
    return pytest.mark.skipif(is_left_out, reason=f"{package} is not installed; run `make setup`")
