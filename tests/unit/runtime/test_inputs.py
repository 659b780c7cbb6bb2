"""What a run reads on a worker, and the digests it is known by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.runtime.job.inputs import Inputs
from raylora.tracking.inputs import DatasetUse
from raylora.train.sample import answer
from tests.contract.strategy_group import run_group
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec, write_chats


def test_the_tokenizers_digest_does_not_depend_on_sample_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    save_base(tmp_path / "base")
    write_chats(tmp_path / "rows.jsonl", 20)
    spec = tiny_spec(tmp_path / "base", tmp_path / "rows.jsonl")
    inputs = Inputs.open(spec)
    answer(build_tiny(spec), 0, inputs.tokenizer, ["the model", "0 1 2"], 2)
    assert tokenizer_digest(inputs.tokenizer) != inputs.tokenizer_digest, "it pads now"
    assert inputs.tokenizer_digest == tokenizer_digest(load_tokenizer(tmp_path / "base"))


def test_each_source_is_listed_with_the_rows_used_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    save_base(tmp_path / "base")
    names = ("a.jsonl", "b.jsonl")
    for seed, name in enumerate(names):
        write_chats(tmp_path / name, 20, seed)
    datasets = [{"path": str(tmp_path / name)} for name in names]
    spec = tiny_spec(tmp_path / "base", tmp_path, datasets=datasets, val_set_size=10, sequence_len=48)
    inputs = Inputs.open(spec)
    uses = [DatasetUse(**use) for use in inputs.uses()]
    assert [(use.context, use.name) for use in uses] == [
        (context, name) for context in ("training", "validation") for name in names
    ]
    assert len({use.digest for use in uses}) == 4, "MLflow would take equal ones for one"
    for name, source in zip(names, inputs.prepared.report.train, strict=True):
        mine = [use for use in uses if use.name == name]
        assert sum(use.num_rows for use in mine) == source.num_kept
        assert sum(use.num_tokens or 0 for use in mine) == source.num_tokens
        assert sum(use.num_truncated for use in mine) == source.num_truncated > 0
    assert sum(use.num_rows for use in uses if use.context == "validation") == 10
    assert inputs.uses() == Inputs.open(spec).uses() != Inputs.open(spec.model_copy(update={"seed": 1})).uses()


@pytest.mark.slow
def test_workers_that_do_not_read_the_same_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))
    for rank in (0, 1):
        save_base(tmp_path / f"rank-{rank}" / "base", initializer_range=0.1 * (rank + 1))
        write_chats(tmp_path / f"rank-{rank}" / "rows.jsonl", 20, seed=rank)
    for said in run_group(tmp_path, program="tests.unit.runtime.inputs_worker"):
        same, other_base, other_rows, other_tokenizer = (
            line for line in said.splitlines() if line.startswith(("alike", "base", "data"))
        )
        assert same == "alike"
        assert re.match(r"base_model: the workers do not .* rank 0 \w{12}, rank 1 \w{12}; name what", other_base), said
        assert re.match(r"datasets: the workers do not read the same data", other_rows), said
        assert re.match(r"base_model: the workers do not read the same tokenizer or processor", other_tokenizer), said
