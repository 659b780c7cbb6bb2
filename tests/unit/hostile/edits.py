"""Files as accidents and enemies leave them: bytes of a valid one cut, replaced or repeated, or no valid one at all."""

from __future__ import annotations

from hypothesis import strategies as st

DEPTH = 100_000
"""Of brackets in brackets; any reader that calls itself for each is out of its depth."""

NESTED = (b"[" * DEPTH, b'{"a":' * DEPTH, b'[{"a":' * DEPTH + b"1" + b"}]" * DEPTH)


def edited(valid: bytes) -> st.SearchStrategy[bytes]:
    """What may become of a file.

    Args:
        valid: A good one.
    """
    place = st.integers(0, len(valid))
    edit = st.tuples(place, place, st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = valid
        for start, stop, new in edits:
            data = data[: min(start, stop)] + new + data[max(start, stop) if len(new) % 2 else min(start, stop) :]
        return data

    cut = place.map(lambda length: valid[:length])
    flipped = st.tuples(place, st.integers(1, 255)).map(lambda flip: _flipped(valid, *flip))
    return st.one_of(st.lists(edit, min_size=1, max_size=3).map(apply), cut, flipped, st.binary(max_size=64))


def _flipped(data: bytes, place: int, mask: int) -> bytes:
    return data if place >= len(data) else data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
