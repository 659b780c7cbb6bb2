"""From files to rows in tokens: the cache, the counts, the split, and everything that can be wrong with a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raylora.data.prepare import Prepared, prepare
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.errors import DataError, StoreError
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import CHATML, LLAMA, saved, small_tokenizer
from tests.unit.store.disks import mounted

Prepare = Callable[..., Prepared]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(small_tokenizer(), tmp_path_factory.mktemp("base"))


@pytest.fixture
def prepared(base: Path, tmp_path: Path) -> Prepare:
    """Prepares the chats of `rows.jsonl`, or what the fields say, with a cache of this test's own."""

    def call(**fields: Any) -> Prepared:
        spec = run_spec(**{"datasets": [{"path": str(tmp_path / "rows.jsonl")}], **fields})
        return prepare(spec, base, tmp_path / "cache")

    return call


def texts(rows: TokenisedRows) -> list[str]:
    tokenizer = small_tokenizer()
    return [tokenizer.decode(rows.tokens(position)[0]) for position in range(len(rows))]


def learned(rows: TokenisedRows) -> list[str]:
    tokenizer = small_tokenizer()
    tokens = [rows.tokens(position) for position in range(len(rows))]
    return [tokenizer.decode(ids[is_label]) for ids, is_label in tokens]


def cached(cache: Path) -> set[Path]:
    return {path for path in (cache / "tokens").iterdir() if path.is_dir()}


def test_rows_come_out_in_order_with_their_places_and_counts(tmp_path: Path, prepared: Prepare):
    file = write(tmp_path / "rows.jsonl", [chat(f"q{row}", f"answer {row}") for row in range(7)])
    got = prepared()
    assert learned(got.train) == [f"answer {row}<|im_end|>" for row in range(7)]
    assert got.train.lengths.tolist() == [len(got.train.tokens(row)[0]) for row in range(7)]
    assert got.train.place(6) == f"{file}, line 7"
    assert got.validation is None
    (source,) = got.report.train
    assert (source.num_rows, source.num_kept, source.num_tokens) == (7, 7, got.train.lengths.sum())
    assert source.num_label_tokens == sum(int(got.train.tokens(row)[1].sum()) for row in range(7))
    assert str(source).startswith(f"{file}: 7 of 7 rows, ")


def test_sources_keep_their_order_and_types(tmp_path: Path, prepared: Prepare):
    write(tmp_path / "a.jsonl", [{"prompt": "p", "answer": "c"}])
    (tmp_path / "b.csv").write_text("text\none\ntwo\n")
    datasets = [
        {"path": str(tmp_path / "a.jsonl"), "type": "completion", "columns": {"completion": "answer"}},
        {"path": str(tmp_path / "b.csv"), "type": "text"},
    ]
    got = prepared(datasets=datasets)
    assert learned(got.train) == ["c<|im_end|>", "one<|im_end|>", "two<|im_end|>"]
    assert got.train.source_of.tolist() == [0, 1, 1]
    assert got.train.place(2) == f"{tmp_path / 'b.csv'}, line 3"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_processes_change_nothing(tmp_path: Path, prepared: Prepare, num_proc: int):
    write(tmp_path / "rows.jsonl", [chat(f"q{row}", f"a{row}") for row in range(30)])
    assert learned(prepared(dataset_num_proc=num_proc).train) == [f"a{row}<|im_end|>" for row in range(30)]


def test_tokens_are_made_once_and_again_when_anything_changes(tmp_path: Path, base: Path, prepared: Prepare):
    file, cache = write(tmp_path / "rows.jsonl", [chat("q", "a")]), tmp_path / "cache"
    prepared()
    assert len(cached(cache)) == 1
    (made,) = (path.stat().st_mtime_ns for path in cached(cache))
    prepared(seed=7, dataset_num_proc=2, micro_batch_size=4)  # none of these changes tokens
    assert [path.stat().st_mtime_ns for path in cached(cache)] == [made]
    changes = [
        {"sequence_len": 64},
        {"excess_length_strategy": "drop"},
        {"train_on_inputs": True},
        {"chat_template": LLAMA},
        {"datasets": [{"path": str(file), "columns": {"tools": "functions"}}]},
    ]
    for number, change in enumerate(changes, start=2):
        prepared(**change)
        assert len(cached(cache)) == number
    first = prepared().report.digest
    write(file, [chat("q", "another")])
    assert learned(prepared().train) == ["another<|im_end|>"]
    assert len(cached(cache)) == len(changes) + 2
    assert prepared().report.digest != first


def test_equal_content_is_one_digest_wherever_it_lies(tmp_path: Path, prepared: Prepare):
    write(tmp_path / "rows.jsonl", [chat("q", "a")])
    other = write(tmp_path / "other.jsonl", [chat("q", "a")])
    first, second = prepared(), prepared(datasets=[{"path": str(other)}])
    assert first.report.digest == second.report.digest
    assert len(cached(tmp_path / "cache")) == 1
    assert second.train.place(0) == f"{other}, line 1"


def test_a_folder_and_a_glob_are_their_files_in_order(tmp_path: Path, prepared: Prepare):
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("b", "a", "more/c"):
        write(tmp_path / "data" / f"{name}.jsonl", [chat("q", name)])
    (tmp_path / "data" / "README.md").write_text("no rows")
    folder = prepared(datasets=[{"path": str(tmp_path / "data")}]).train
    assert learned(folder) == ["a<|im_end|>", "b<|im_end|>", "more/c<|im_end|>"]
    assert folder.place(2) == f"{tmp_path / 'data' / 'more' / 'c.jsonl'}, line 1"
    assert len(prepared(datasets=[{"path": str(tmp_path / "data" / "*.jsonl")}]).train) == 2
    assert len(prepared(datasets=[{"path": str(tmp_path / "data" / "**" / "*.jsonl")}]).train) == 3


LONG = chat("q", "word " * 40)
LONG_QUESTION = chat("word " * 60, "a")


def test_long_rows_are_cut_and_counted(tmp_path: Path, prepared: Prepare):
    write(tmp_path / "rows.jsonl", [chat("q", "a"), LONG, LONG_QUESTION])
    got = prepared(sequence_len=64)
    (source,) = got.report.train
    assert (source.num_truncated, source.num_dropped_long, source.num_dropped_empty) == (1, 0, 1)
    assert str(source).endswith(
        f"1 dropped as truncation left them no token with loss: {tmp_path / 'rows.jsonl'}, line 3"
    )
    assert got.train.lengths.tolist()[1:] == [64]
    assert learned(got.train)[1].startswith("word word") and "<|im_end|>" not in learned(got.train)[1]
    # The row that lost its answer keeps its number.
    assert got.train.row_ids.tolist() == [0, 1]


def test_long_rows_are_dropped_and_counted(tmp_path: Path, prepared: Prepare):
    write(tmp_path / "rows.jsonl", [LONG, chat("q", "a"), LONG_QUESTION])
    got = prepared(sequence_len=64, excess_length_strategy="drop")
    (source,) = got.report.train
    assert (source.num_kept, source.num_dropped_long, source.num_truncated) == (1, 2, 0)
    assert got.train.place(int(got.train.row_ids[0])).endswith("line 2")


def test_val_set_size_splits_by_seed_and_no_row_is_in_both(tmp_path: Path, prepared: Prepare):
    rows = [chat(f"q{row}", "a") for row in range(20)]
    write(tmp_path / "rows.jsonl", rows + rows[:5])
    got = prepared(val_set_size=0.2)
    assert got.validation is not None
    assert len(got.train) + len(got.validation) == 25
    assert not set(texts(got.train)) & set(texts(got.validation))
    assert (got.report.num_train_rows, got.report.num_validation_rows) == (len(got.train), len(got.validation))
    again, other = prepared(val_set_size=0.2), prepared(val_set_size=0.2, seed=1)
    assert again.validation is not None and other.validation is not None
    assert texts(again.validation) == texts(got.validation) != texts(other.validation)
    held = prepared(val_set_size=0.2, seed=1, split_seed=42)
    assert held.validation is not None
    assert texts(held.validation) == texts(got.validation)


def test_test_datasets_are_the_validation_rows_and_are_not_trained_on(tmp_path: Path, prepared: Prepare):
    write(tmp_path / "rows.jsonl", [chat(f"q{row}", "a") for row in range(6)])
    write(tmp_path / "test.jsonl", [chat(f"q{row}", "a") for row in range(4, 9)])
    got = prepared(test_datasets=[{"path": str(tmp_path / "test.jsonl")}])
    assert got.validation is not None
    assert (len(got.train), len(got.validation), got.report.num_shared) == (4, 5, 2)
    assert not set(texts(got.train)) & set(texts(got.validation))
    with pytest.raises(DataError, match="every training row is also a validation row"):
        prepared(test_datasets=[{"path": str(tmp_path / "rows.jsonl")}])


GOOD = json.dumps(chat("q", "a"))
NO_ANSWER = json.dumps({"messages": [{"role": "user", "content": "q"}]})


@pytest.mark.parametrize(
    ("lines", "fields", "said"),
    [
        (
            [GOOD, '{"messages": ['],
            {},
            r"rows\.jsonl, line 2: not JSON \(Expecting value at column 15\): '\{\"messages",
        ),
        ([GOOD, "", "[1]"], {}, r"rows\.jsonl, line 3: a row is an object"),
        ([GOOD, '{"message": []}'], {}, r"rows\.jsonl, line 2: no column 'messages'.*nearest: message"),
        ([], {}, r"rows\.jsonl: holds no rows; fill it"),
        ([GOOD, NO_ANSWER], {}, r"1 of 2 rows have no token to learn from.*: \S+rows\.jsonl, line 2; remove them"),
        ([GOOD, *[NO_ANSWER] * 7], {}, r"7 of 8 rows have no token.*line 2; .*line 6 and 2 more; "),
        (
            [GOOD, json.dumps(LONG)],
            {"sequence_len": 64, "excess_length_strategy": "raise"},
            r"1 of 2 rows are longer than sequence_len = 64 tokens: \S+, line 2; raise sequence_len",
        ),
        (
            [json.dumps(LONG)],
            {"sequence_len": 64, "excess_length_strategy": "drop"},
            r"no row of \S+rows\.jsonl can be used: all were dropped; raise sequence_len above 64",
        ),
        ([GOOD] * 4, {"val_set_size": 2}, "leaves no row for validation"),
        ([GOOD], {"chat_template": "{{ raise_exception('no') }}"}, r"line 1: the chat template refuses .* no"),
    ],
)
def test_wrong_rows_are_named_and_leave_no_cache(
    tmp_path: Path, prepared: Prepare, lines: list[str], fields: dict[str, Any], said: str
):
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=said):
        prepared(**fields)
    if "val_set_size" not in fields and fields.get("excess_length_strategy") != "drop":
        assert [path.name for path in (tmp_path / "cache" / "tokens").iterdir() if path.suffix != ".lock"] == []


def test_an_error_in_another_process_is_the_same_error(tmp_path: Path, prepared: Prepare):
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n" * 40 + "{\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 41: not JSON"):
        prepared(dataset_num_proc=2)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.jsonl", r"missing\.jsonl: no such file, folder or match; relative paths start at"),
        ("*.parquet", r"\*\.parquet: no such file"),
        ("notes.txt", r"notes\.txt: no file that can be read; allowed endings: \.jsonl, \.json, \.csv"),
        ("mixed", r"mixed: holds files of several formats \(\.csv, \.jsonl\); say which, as in '\*\.csv'"),
    ],
)
def test_paths_that_give_no_rows_are_named(tmp_path: Path, prepared: Prepare, path: str, said: str):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "a.jsonl", [])
    (tmp_path / "mixed" / "b.csv").write_text("")
    with pytest.raises(DataError, match=said):
        prepared(datasets=[{"path": str(tmp_path / path)}])


def test_a_hub_id_that_cannot_be_had_says_so(prepared: Prepare):
    with pytest.raises(DataError, match=r"nobody/nothing: no file or folder here, and no dataset of the hub"):
        prepared(datasets=[{"path": "nobody/nothing"}])
    with pytest.raises(DataError, match=r"ftp://host/rows\.jsonl is of a kind .* allowed: a file, .* copy the rows"):
        prepared(datasets=[{"path": "ftp://host/rows.jsonl"}])


def test_what_datasets_saves_to_disk_is_read(tmp_path: Path, prepared: Prepare):
    import datasets

    datasets.Dataset.from_list([chat("q", f"a{row}") for row in range(3)]).save_to_disk(tmp_path / "saved")
    assert learned(prepared(datasets=[{"path": str(tmp_path / "saved")}]).train) == [
        f"a{row}<|im_end|>" for row in range(3)
    ]


def test_tools_reach_the_template_as_they_were_written(tmp_path: Path, prepared: Prepare):
    """Rows with tools of other shapes: a column type would have merged them."""
    tools = [
        [{"name": "add", "parameters": {"a": "int"}}],
        [{"name": "say", "parameters": {"text": {"x": None}}}],
        None,
    ]
    write(tmp_path / "rows.jsonl", [{**chat("q", "a"), "tools": tool} for tool in tools])
    template = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    starts = [text.split("<|im_start|>")[0] for text in texts(prepared(chat_template=template).train)]
    assert starts == [json.dumps(tools[0]), json.dumps(tools[1]), ""]


def test_a_full_disk_is_said(tmp_path: Path, base: Path):
    file = write(tmp_path / "rows.jsonl", [chat("q" * 50, "a" * 200) for _ in range(20_000)])
    with mounted(tmp_path / "disk", 1 << 20) as disk, pytest.raises(StoreError, match="No space left on device"):
        prepare(run_spec(datasets=[{"path": str(file)}]), base, disk)
