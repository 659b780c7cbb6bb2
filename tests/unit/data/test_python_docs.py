"""The demo's rows: many, short, the same on every run, and none on both sides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "python_docs.py"
SIDES = ("train", "validation")


def make(folder: Path, hash_seed: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--out", "out", "--validation-rows", "300"],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return make(folder / "first", "1")


@pytest.fixture(scope="module")
def chats(folder: Path, run: subprocess.CompletedProcess[str]) -> dict[str, list[tuple[str, str]]]:
    files = {side: folder / "first" / "out" / f"{side}.jsonl" for side in SIDES}
    rows = {side: [json.loads(line)["messages"] for line in file.open()] for side, file in files.items()}
    for side in SIDES:
        assert {tuple(message["role"] for message in messages) for messages in rows[side]} == {("user", "assistant")}
    return {side: [(question["content"], answer["content"]) for question, answer in rows[side]] for side in SIDES}


def test_there_are_thousands_of_short_rows(chats: dict[str, list[tuple[str, str]]]):
    assert len(chats["train"]) > 3000
    assert len(chats["validation"]) == 300
    for question, answer in chats["train"] + chats["validation"]:
        name = re.fullmatch(r"What does Python's `([\w.]+)(\(.*\))?` do\?", question)
        assert name is not None
        start = re.match(rf"`{re.escape(name[1])}(\(.*\))` is a (function|class|method) of `[\w.]+`\. \w", answer)
        assert start is not None
        assert name[2] in (None, start[1])
        assert len(answer.split()) < 80
        assert "object at 0x" not in answer


def test_no_function_and_no_docstring_is_on_both_sides(chats: dict[str, list[tuple[str, str]]]):
    def names(side: str) -> set[str]:
        return {re.split(r"[`(]", question)[1] for question, _ in chats[side]}

    def summaries(side: str) -> list[str]:
        return [answer.split("`. ", 1)[1].lower() for _, answer in chats[side]]

    assert not names("train") & names("validation")
    assert not set(summaries("train")) & set(summaries("validation"))
    assert len(set(summaries("train"))) == len(chats["train"])


def test_another_run_writes_the_same_files_and_nothing_else(folder: Path, run: subprocess.CompletedProcess[str]):
    again = make(folder / "second", "2")
    assert run.stdout == again.stdout
    assert run.stderr == again.stderr == ""
    for name in (*SIDES, "pairs"):
        first, second = (folder / place / "out" / f"{name}.jsonl" for place in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (folder / "second").iterdir()] == ["out"]


def test_a_pair_has_a_functions_own_sentence_and_that_of_another(
    folder: Path, run: subprocess.CompletedProcess[str], chats: dict[str, list[tuple[str, str]]]
):
    rows = [json.loads(line) for line in (folder / "first" / "out" / "pairs.jsonl").open()]
    asked, chosen, rejected = (
        [row[column][0]["content"] for row in rows] for column in ("prompt", "chosen", "rejected")
    )
    answers = dict(chats["train"])
    assert len(rows) > 0.9 * len(answers)
    assert len(set(asked)) == len(asked)
    for question, own, other in zip(asked, chosen, rejected, strict=True):
        assert f"`. {own}" in answers[question]
        assert own != other
    assert len(set(rejected) - set(chosen)) <= 1 + len(answers) - len(rows), "what is rejected here is chosen elsewhere"


def test_what_everybody_knows_is_there(chats: dict[str, list[tuple[str, str]]]):
    answers = [answer for side in SIDES for _, answer in chats[side]]
    for name in ("abs", "os.path.join", "json.dumps", "textwrap.dedent", "str.upper"):
        assert any(answer.startswith(f"`{name}(") for answer in answers)
