"""Rows of every type with any JSON in them, the files that they name, and what makes values of those."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.data.sources.rows import TYPES
from raylora.data.sources.source import open_source
from raylora.data.tokens.audio import AudioProcessor
from raylora.data.tokens.encode import Encoder
from raylora.data.tokens.images import ImageProcessor
from raylora.data.tokens.labelled import LabelEncoder
from raylora.data.tokens.row_files import with_files
from raylora.data.tokens.source_target import TargetEncoder
from raylora.data.tokens.tokenise import RowEncoder, RowTokeniser
from raylora.data.tokens.values import Processor, ValueEncoder
from raylora.errors import DataError
from raylora.spec.fields.data import DatasetSpec
from tests.unit.data.small_tokenizer import MARKED, small_tokenizer
from tests.unit.hostile.edits import NESTED, edited
from tests.unit.hostile.reading import many, readable_or_refused
from tests.unit.train.tiny_audio import save_recordings
from tests.unit.train.tiny_images import save_images

pytestmark = pytest.mark.slow

Place = tuple[str | int, ...]
"""Keys and numbers that lead to a part of JSON."""

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
ROWS: Mapping[str, dict[str, Any]] = {
    "chat": {"messages": [*CHAT, CALL], "tools": TOOLS},
    "completion": {"prompt": "p", "completion": "c"},
    "alpaca": {"instruction": "i", "input": "", "output": "o"},
    "text": {"text": "t"},
    "preference": {"prompt": "p", "chosen": CHAT[1:], "rejected": [CALL], "tools": TOOLS},
    "unpaired_preference": {"prompt": CHAT[:1], "completion": CHAT[1:], "label": True, "tools": None},
    "classification": {"text": "t", "label": "no"},
    "tags": {"tokens": ["one", "two"], "tags": ["no", 1]},
    "image": {"image": {"bytes": None, "path": "images/3.png"}, "label": 1},
    "audio": {"audio": "audio/3.wav", "label": 1},
}
LABELS = ("no", "yes")
LONG_NUMBER = "1" * 5_000
"""More digits than Python makes a number of."""

ODD = (
    *(None, True, 7, -1, 10**20, 0.5, math.nan, [], [7], {}, {"a": None}),
    *("", "7", "x", "..", "[7]", "\ud800", LONG_NUMBER),
)
"""JSON of every kind; one text is half a character, which JSON can spell."""
ANYTHING = st.recursive(
    st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=8)),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=4), part, max_size=3),
    max_leaves=4,
)


def changed(valid: Any) -> st.SearchStrategy[Any]:
    """What may become of JSON: anything in the place of two of its parts."""
    edit = st.tuples(st.sampled_from(list(places(valid))), ANYTHING)

    def apply(edits: tuple[tuple[Place, Any], ...]) -> Any:
        found = valid
        for place, value in edits:
            with suppress(LookupError, TypeError):  # the edit before took that place away
                found = put_in(found, place, value)
        return found

    return st.tuples(edit, edit).map(apply)


def odd(valid: Any) -> Iterator[Any]:
    """JSON with each odd value in the place of each of its parts."""
    for place in places(valid):
        yield from (put_in(valid, place, value) for value in ODD)


def places(part: Any, at: Place = ()) -> Iterator[Place]:
    """Where the parts of JSON are, all of it first."""
    yield at
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def put_in(part: Any, place: Place, value: Any) -> Any:
    """A copy of JSON with a value in one place."""
    if not place:
        return value
    found = copy.copy(part)
    found[place[0]] = put_in(part[place[0]], place[1:], value)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases and files of images and recordings, side by side."""
    return save_recordings(save_images(tmp_path_factory.mktemp("home"), num_rows=4), num_rows=4)


def encoders(home: Path, kind: str) -> list[RowEncoder]:
    """All that may encode rows of a type."""
    if kind in ("image", "audio"):
        processor = ImageProcessor(home / "vit") if kind == "image" else AudioProcessor(home / "ast")
        return [ValueEncoder(processor, LABELS)]
    if kind in ("classification", "tags"):
        return [LabelEncoder(small_tokenizer(), LABELS)]
    found: list[RowEncoder] = [Encoder(small_tokenizer()), Encoder(small_tokenizer(MARKED))]
    if kind == "preference":
        found.append(LabelEncoder(small_tokenizer(), ()))
    return [*found, TargetEncoder(small_tokenizer())] if kind in ("completion", "alpaca") else found


def whole(home: Path, kind: str, text: str) -> None:
    """Read one row of a file as a run does, from its bytes to its tokens."""
    (home / "asked.jsonl").write_text(text)
    source = with_files(open_source(DatasetSpec(path=str(home / "asked.jsonl"), type=kind), home), home / "digests")
    for encoder in encoders(home, kind):
        rows = list(source.read())
        cells = dict(zip(("file", "number", "row"), map(list, zip(*rows, strict=True)), strict=True))
        RowTokeniser(encoder, source, 64, "truncate")(cells)


def test_every_type_is_put_to_the_test():
    assert ROWS.keys() == TYPES.keys()


@pytest.mark.parametrize("kind", TYPES)
def test_rows_of_any_json(home: Path, kind: str):
    whole(home, kind, json.dumps(ROWS[kind]))
    for row in odd(ROWS[kind]):
        readable_or_refused(lambda row=row: whole(home, kind, json.dumps(row)))

    @many
    @given(changed(ROWS[kind]))
    def read(row: Any) -> None:
        readable_or_refused(lambda: whole(home, kind, json.dumps(row)))

    read()


NO_VALUES = {"long": LONG_NUMBER, "half": '"\\ud800"', "7": "7", "deep": NESTED[2].decode()}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", NO_VALUES.values(), ids=NO_VALUES)
def test_a_value_that_is_none_is_told_with_its_row(home: Path, kind: str, value: str):
    """In the place of each column in turn: numbers that Python does not read, half a character, no list, depth."""
    for column in TYPES[kind].required:
        row = ", ".join(f'"{name}": {value if name == column else json.dumps(of)}' for name, of in ROWS[kind].items())
        with pytest.raises(DataError, match=r"asked\.jsonl, line 1: "):
            whole(home, kind, f"{{{row}}}")


@pytest.mark.parametrize("calls", ["7", "true", '{"name": 1}', '"f"'])
def test_calls_of_tools_that_are_no_list_are_told(home: Path, calls: str):
    with pytest.raises(DataError, match=r"line 1: messages\[0\].tool_calls: a"):
        whole(home, "chat", f'{{"messages": [{{"role": "assistant", "tool_calls": {calls}}}]}}')


def test_files_of_images(home: Path):
    processor, file = ImageProcessor(home / "vit"), home / "images" / "3.png"

    @many
    @given(edited(file.read_bytes()))
    def read(data: bytes) -> None:
        readable_or_refused(lambda: processor.values(data))

    read()


def test_files_of_recordings(home: Path):
    processor, file = AudioProcessor(home / "ast"), home / "audio" / "3.wav"

    @many
    @given(edited(file.read_bytes()[:2_000]), st.booleans())
    def read(data: bytes, is_long: bool) -> None:
        readable_or_refused(lambda: processor.values(data + bytes(2_000 * is_long)))

    read()


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_configurations_of_processors(home: Path, kind: str):
    made: type[Processor] = ImageProcessor if kind == "image" else AudioProcessor
    base, name = ("vit", "images/3.png") if kind == "image" else ("ast", "audio/3.wav")
    file, content = home / base / "preprocessor_config.json", (home / name).read_bytes()
    valid = file.read_bytes()
    fields = json.loads(valid) | {"do_center_crop": False, "crop_size": {"height": 8, "width": 8}}

    def try_out(data: bytes) -> None:
        file.write_bytes(data)
        readable_or_refused(lambda: made(home / base).values(content))

    try:
        for data in (*NESTED, *(json.dumps(field).encode() for field in odd(fields))):
            try_out(data)
        many(given(edited(valid))(try_out))()
    finally:
        file.write_bytes(valid)
