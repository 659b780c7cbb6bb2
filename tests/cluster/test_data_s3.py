"""Rows in a bucket of a real server, read like files."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from raylora.data.prepare import prepare
from raylora.errors import DataError
from raylora.store.blob import open_store
from tests.servers.s3 import SECRET, S3Server
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import saved, small_tokenizer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def folder(s3_env: S3Server) -> str:
    return s3_env.uri(f"rows/{uuid.uuid4().hex}")


def put(uri: str, name: str, answers: list[str]) -> None:
    chats = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}] for answer in answers]
    open_store(uri).write(name, "".join(json.dumps({"messages": chat}) + "\n" for chat in chats).encode())


def test_a_bucket_is_read_like_a_folder(folder: str, tmp_path: Path):
    tokenizer = small_tokenizer()
    base = saved(tokenizer, tmp_path / "base")
    put(folder, "b.jsonl", ["b1", "b2"])
    put(folder, "a.jsonl", ["a1"])
    put(folder, "deep/c.jsonl", ["c1"])

    def answers(path: str) -> list[str]:
        rows = prepare(run_spec(datasets=[{"path": path}]), base, tmp_path / "cache").train
        tokens = [rows.tokens(row) for row in range(len(rows))]
        return [tokenizer.decode(ids[learned]).removesuffix("<|im_end|>") for ids, learned in tokens]

    assert answers(f"{folder}/b.jsonl") == ["b1", "b2"]
    assert answers(folder) == ["a1", "b1", "b2", "c1"]
    assert answers(f"{folder}/*.jsonl") == ["a1", "b1", "b2"]
    assert answers(f"{folder}/**/*.jsonl") == ["a1", "b1", "b2", "c1"]
    assert answers(f"{folder}/deep/[a-c].*") == ["c1"]
    copies = sorted((tmp_path / "cache" / "downloads").glob("*/*.jsonl"))
    assert [copy.name for copy in copies].count("b.jsonl") == 1

    # A local copy is the same content, and an object that was replaced is read anew.
    local = tmp_path / "b.jsonl"
    open_store(folder).download("b.jsonl", local)
    reports = [
        prepare(run_spec(datasets=[{"path": path}]), base, tmp_path / "cache").report
        for path in (str(local), f"{folder}/b.jsonl")
    ]
    assert reports[0].digest == reports[1].digest
    put(folder, "b.jsonl", ["new"])
    assert answers(f"{folder}/b.jsonl") == ["new"]


def test_what_is_wrong_in_a_bucket_is_named(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = saved(small_tokenizer(), tmp_path / "base")
    open_store(folder).write("rows.jsonl", b'{"messages": [}\n')

    def error_of(path: str) -> str:
        with pytest.raises(DataError) as caught:
            prepare(run_spec(datasets=[{"path": path}]), base, tmp_path / "cache")
        return str(caught.value)

    assert f"{folder}/rows.jsonl, line 1: not JSON" in error_of(f"{folder}/rows.jsonl")
    assert f"{folder}/none.jsonl: no such file" in error_of(f"{folder}/none.jsonl")
    assert "no such file" in error_of(f"{folder}/nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-wrong")
    said = error_of(f"{folder}/rows.jsonl")
    assert folder in said
    assert SECRET not in said
