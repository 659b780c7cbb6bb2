"""A damaged tokenizer or chat template is used, or refused with an error of raylora's own that says which."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given

from raylora.data.sources.conversation import Conversation
from raylora.data.tokens.chat import ChatTemplate
from raylora.data.tokens.tokenizer import load_tokenizer
from raylora.errors import DataError, ModelError
from tests.unit.data.small_tokenizer import CHATML, MARKED, saved, small_tokenizer
from tests.unit.hostile.edits import NESTED, edited
from tests.unit.hostile.reading import many, put, readable_or_refused

pytestmark = pytest.mark.slow

CHAT = Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
# Its merge makes a token that the vocabulary lacks: the library in Rust panics.
PANICS = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_files_of_tokenizers(tmp_path: Path, name: str):
    folder = saved(small_tokenizer(), tmp_path / "base")

    @many
    @given(edited((folder / name).read_bytes()))
    def read(data: bytes) -> None:
        put(folder, name, data)
        readable_or_refused(lambda: load_tokenizer(folder))

    read()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", *NESTED], ids=lambda data: str(data[:8]))
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, data: bytes):
    folder = saved(small_tokenizer(), tmp_path / "base")
    put(folder, "tokenizer.json", data)
    with pytest.raises(ModelError, match=rf"^base_model: {folder} has no tokenizer that can be loaded"):
        load_tokenizer(folder)


def test_a_tokenizer_that_its_library_panics_at_is_refused(tmp_path: Path):
    folder = saved(small_tokenizer(), tmp_path / "base")
    whole = json.loads((folder / "tokenizer.json").read_bytes())
    put(folder, "tokenizer.json", json.dumps(whole | {"model": PANICS}).encode())
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded") as caught:
        load_tokenizer(folder)
    assert not isinstance(caught.value.__cause__, Exception), "no panic: the case has lost its subject"


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["chatml", "marked"])
def test_chat_templates(template: str):
    @many
    @given(edited(template.encode()))
    def render(data: bytes) -> None:
        tokenizer = small_tokenizer(data.decode(errors="replace"))
        readable_or_refused(lambda: ChatTemplate(tokenizer).render(CHAT))

    render()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ 'a'.encode('no such') }}", "LookupError"),
        ("{{ range(1000000000) }}", "OverflowError"),
        ("{{ 'a' * 999999999999999999 }}", "MemoryError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ nobody.knows }}", "undefined"),
        ("{{ " + "(" * 5_000, "RecursionError"),
        ("{% for m in messages %}" * 25 + "{% endfor %}" * 25, "SyntaxError"),
    ],
)
def test_a_template_that_raises_is_refused(template: str, said: str):
    with pytest.raises(DataError, match=f"^the chat template refuses the conversation: .*{said}"):
        ChatTemplate(small_tokenizer(template)).render(CHAT)


@pytest.mark.parametrize("template", ["{{ " + "(" * 5_000, "{% for m in messages %}" * 25 + "{% endfor %}" * 25])
def test_a_template_nested_too_deep_is_refused_before_any_row(tmp_path: Path, template: str):
    folder = saved(small_tokenizer(), tmp_path / "base")
    with pytest.raises(DataError, match=r"^chat_template: no Jinja that can be read"):
        load_tokenizer(folder, template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
        "{{ lipsum(n=1000000000) }}",
        "{% set n = namespace(x=9) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
    ids=["loops", "filters", "a function of Jinja's", "a large number", "macros"],
)
def test_a_template_that_does_not_end_is_refused(template: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raylora.data.tokens.in_time.RENDER_S", 0.1)
    watched = sys.gettrace()
    with pytest.raises(DataError, match=r"^the chat template refuses the conversation: TimeoutError: it takes longer"):
        ChatTemplate(small_tokenizer(template)).render(CHAT)
    assert sys.gettrace() is watched


@pytest.mark.parametrize("power", ["{{ 9 ** 9 ** 9 }}", "{{ messages[0]\n** 2 }}", "{% if f(2)**64 %}{% endif %}"])
def test_a_template_with_a_power_is_refused_before_it_is_read(tmp_path: Path, power: str):
    folder, of_base = saved(small_tokenizer(), tmp_path / "base"), saved(small_tokenizer(power), tmp_path / "other")
    for load in (lambda: load_tokenizer(folder, power), lambda: load_tokenizer(of_base)):
        with pytest.raises(DataError, match=r"^chat_template: line \d of it raises to a power"):
            load()


def test_arguments_of_a_call_are_no_power(tmp_path: Path):
    template = "{{ dict( ** {'a': 1}) }}{{ dict(a=1, **{'b': '2 ** 3'}) }} 2 ** 3 {# 2 ** 3 #}"
    tokenizer = load_tokenizer(saved(small_tokenizer(), tmp_path / "base"), template)
    assert tokenizer.chat_template == template
