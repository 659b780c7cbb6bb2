"""A conversation on standard input: who answers what, what the commands do, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.stored import read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options, Session
from raylora.cli.chat import _stopped_by_ctrl_c
from raylora.cli.talk import messages_of
from tests.arch.source_tree import REPOSITORY
from tests.unit.adapters.peft_saved import save_peft
from tests.unit.cli.conftest import Raylora, Told
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.tiny_run import save_base

OPTIONS = Options(8)
Talked = Callable[..., Told]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and two adapters over it; never written to."""
    folder = tmp_path_factory.mktemp("chat")
    save_base(folder / "base")
    save_peft(folder / "base", folder / "one", 1)
    save_peft(folder / "base", folder / "two", 2)
    return folder


@pytest.fixture(scope="module")
def session(home: Path) -> Session:
    return opened(home, "one", "two")


@pytest.fixture
def talked(raylora: Raylora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Talked:
    """Run a conversation whose lines are in a file."""

    def run(words: list[object], lines: list[str]) -> Told:
        script = tmp_path / "script.txt"
        script.write_text("".join(f"{line}\n" for line in lines))
        with script.open(encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            return raylora("chat", *words, "--max-new-tokens", OPTIONS.max_new_tokens)

    return run


class Expected:
    """What a conversation writes, said by a session."""

    def __init__(self, session: Session) -> None:
        self._session, self.out, self.turns = session, "", list[dict[str, str]]()

    def ask(self, name: str | None, question: str, system: str | None = None) -> None:
        self.turns.append({"role": "user", "content": question})
        parts: list[str] = []
        answer = self._session.answer(name, messages_of(system, self.turns), OPTIONS, parts.append)
        self.turns.append({"role": "assistant", "content": answer.text})
        self.out += "".join(parts) + "\n"


def test_a_conversation_goes_on_while_adapters_are_switched(talked: Talked, home: Path, session: Session):
    one, two = str(home / "one"), str(home / "two")
    lines = ["the model reads", f"/adapter {two}", "", "and the answer", "/base", "Sum", "/adapters", "/quit", "no"]
    told = talked([one, two], lines)
    expected = Expected(session)
    for name, question in (("one", "the model reads"), ("two", "and the answer"), (None, "Sum")):
        expected.ask(name, question)
    assert (told.code, told.out) == (0, expected.out)
    said = [line.strip() for line in told.err.splitlines()]
    for line in (f"{one} answers; /help lists the commands", f"{two} answers", "the base answers", one, two):
        assert line in said, line


def test_a_systems_message_and_a_new_beginning(talked: Talked, home: Path, session: Session):
    lines = ["the model", "/system Return the number", "/reset", "the model", "/system", "/reset", "the model"]
    told = talked([home / "one", "--system", "You help."], lines)
    out = ""
    for system in ("You help.", "Return the number", None):
        expected = Expected(session)
        expected.ask("one", "the model", system)
        out += expected.out
    assert (told.code, told.out) == (0, out)
    assert "the conversation is forgotten" in told.err


def test_what_is_no_command_is_told_and_the_conversation_goes_on(talked: Talked, home: Path, session: Session):
    told = talked([home / "one"], ["/adapter other", "/adapter", "/nothing", "/help", "the model"])
    expected = Expected(session)
    expected.ask("one", "the model")
    assert (told.code, told.out) == (0, expected.out)
    assert f"no adapter 'other' is open. Open: {home / 'one'}" in told.err
    assert "no command /nothing; /help lists them" in told.err
    assert "/adapter NAME  switch to another adapter" in told.err


def test_a_base_alone_and_no_adapter_to_switch_to(talked: Talked, home: Path, session: Session):
    told = talked(["--base", home / "base"], ["/adapter one", "the model"])
    expected = Expected(session)
    expected.ask(None, "the model")
    assert told.out == expected.out
    assert "no adapter 'one' is open. Open: none" in told.err


def test_oldest_turns_are_left_out_and_that_is_said_once(talked: Talked, tmp_path: Path):
    save_base(tmp_path / "base", max_position_embeddings=100)
    told = talked(["--base", tmp_path / "base"], ["the model reads a question"] * 8)
    assert told.code == 0
    assert told.err.count("its oldest turns are left out") == 1
    told = talked(["--base", tmp_path / "base"], ["0 1 2 3 4 5 6 7 8 9 " * 20, "the model"])
    assert told.code == 0
    assert told.err.count("positions. Allowed: at most 99 tokens") == 1
    assert told.out.endswith("\n")


def test_a_base_without_a_template_says_so_once(talked: Talked, home: Path, tmp_path: Path):
    shutil.copytree(home / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink(missing_ok=True)
    small_tokenizer(None).save_pretrained(tmp_path / "base")
    told = talked(["--base", tmp_path / "base"], ["the model", "the model"])
    assert told.code == 0
    assert told.err.count("has no chat template") == 1


def test_all_that_is_wrong_is_told_at_once(talked: Talked):
    told = talked(["--temperature=-1", "--top-p=1.5"], [])
    assert told.code == 2
    for problem in ("ADAPTER: got none", "--temperature: got -1", "--top-p: got 1.5"):
        assert problem in told.err


def test_the_first_ctrl_c_stops_an_answer_and_the_second_ends():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _stopped_by_ctrl_c() as is_stopped:
        assert not is_stopped()
        signal.raise_signal(signal.SIGINT)
        assert is_stopped()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def command_of(*words: object) -> list[str]:
    return [sys.executable, "-c", "from raylora.cli.app import main; main()", "chat", *map(str, words)]


@pytest.mark.slow
def test_adapters_are_switched_over_a_base_that_was_loaded_once(home: Path, tmp_path: Path):
    """After the first answer nothing could be loaded again: base and adapters are gone from the disk."""
    mine = shutil.copytree(home, tmp_path / "mine")
    alone = {name: opened(home, *([name] if name else [])) for name in ("one", "two", None)}
    words = (mine / "one", mine / "two", "--base", mine / "base", "--max-new-tokens", OPTIONS.max_new_tokens)
    env = {**os.environ, "RAYLORA_HOME": str(tmp_path), "PYTHONUTF8": "1"}
    errors = tmp_path / "stderr.txt"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command_of(*words), cwd=REPOSITORY, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        for name in ("one", "two", None, "two", "one"):
            expected = Expected(alone[name])
            expected.ask(name, "the model reads")
            who = f"/adapter {mine / name}" if name else "/base"
            process.stdin.write(f"/reset\n{who}\nthe model reads\n".encode())
            process.stdin.flush()
            assert process.stdout.read(len(expected.out.encode())).decode() == expected.out, errors.read_text()
            shutil.rmtree(mine, ignore_errors=True)
        rest, _ = process.communicate()
    assert (process.returncode, rest) == (0, b"")
    assert errors.read_text().count("held as none on") == 1
    assert len({answer_of(session, name) for name, session in alone.items()}) == 3


def opened(home: Path, *names: str) -> Session:
    base = find_base(BasePlace(str(home / "base")), home / "cache")
    return open_session(base, {name: read_adapter(str(home / name)) for name in names}, {})


def answer_of(session: Session, name: str | None) -> str:
    return session.answer(name, messages_of(None, [{"role": "user", "content": "the model reads"}]), OPTIONS).text
