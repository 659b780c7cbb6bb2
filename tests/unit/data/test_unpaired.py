"""Rated answers: rows of every shape, what they become, and prompts with the completions of other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylora.data.batches import Batches
from raylora.data.collate import Batch, collate
from raylora.data.prepare import prepare
from raylora.data.sources.conversation import Conversation
from raylora.data.sources.examples import Passage, Rated
from raylora.data.sources.rows import read_row
from raylora.data.tokens.encode import Encoder
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.errors import DataError
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import saved, small_tokenizer
from tests.unit.train.tiny_run import write_rated

ASKED = {"role": "user", "content": "q"}
SAID = {"role": "assistant", "content": "a"}
NUM_ROWS = 30


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "completion": "a", "label": True}, Rated(Passage("p", "a"), True)),
        ({"prompt": "p", "completion": "a", "label": "False"}, Rated(Passage("p", "a"), False)),
        (
            {"prompt": [ASKED], "completion": [SAID], "label": False},
            Rated(Conversation([ASKED, SAID], None, 1), False),
        ),
        (
            {"prompt": "q", "completion": json.dumps([SAID]), "label": "true"},
            Rated(Conversation([ASKED, SAID], None, 1), True),
        ),
    ],
    ids=["texts", "label as text", "messages", "messages as JSON"],
)
def test_a_row_becomes_a_rated_answer(row: dict[str, Any], expected: Rated):
    assert read_row(row, "unpaired_preference", {}) == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "completion": "a"}, "no column 'label'"),
        ({"prompt": "p", "label": True}, "no column 'completion'"),
        ({"prompt": "p", "completion": "a", "label": None}, r"column 'label' holds true \(desirable\) or false"),
        ({"prompt": "p", "completion": "a", "label": 1}, "column 'label' holds true"),
        ({"prompt": "p", "completion": "a", "label": "good"}, "column 'label' holds true .* got str 'good'"),
        ({"prompt": "p", "completion": " ", "label": True}, "column 'completion' holds no answer"),
        ({"prompt": "p", "completion": None, "label": True}, "completion: a list of messages"),
        ({"prompt": [ASKED], "completion": [], "label": True}, "completion: a list of messages"),
        ({"prompt": [ASKED], "completion": [SAID | {"content": ""}], "label": True}, "holds no answer"),
        ({"prompt": [ASKED], "completion": [ASKED], "label": True}, "holds no answer"),
        ({"prompt": 3, "completion": "a", "label": True}, "column 'prompt' holds text"),
    ],
)
def test_what_is_no_rated_answer_is_said(row: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        read_row(row, "unpaired_preference", {})


def test_an_answer_is_encoded_as_it_is_without_its_label():
    answer = Conversation([ASKED, SAID], None, 1)
    encoder = Encoder(small_tokenizer())
    rated = encoder.encode(Rated(answer, True))
    assert rated.is_desirable and not encoder.encode(answer).is_desirable
    assert (rated.input_ids, rated.is_label) == (encoder.encode(answer).input_ids, encoder.encode(answer).is_label)
    assert rated.cut(len(rated.input_ids) - 1).is_desirable


def prepared(tmp_path: Path, **fields: object) -> tuple[Batches, TokenisedRows]:
    file = tmp_path / "rated.jsonl"
    if not file.exists():
        write_rated(file, NUM_ROWS)
    source = {"path": str(file), "type": "unpaired_preference"}
    shared = {"datasets": [source], "rl": "kto", "sequence_len": 128, "micro_batch_size": 2}
    spec = run_spec(**{**shared, **fields})
    rows = prepare(spec, saved(small_tokenizer(), tmp_path / "base"), tmp_path / "cache").train
    return Batches(spec, rows, 0), rows


def texts_in(batches: list[Batch]) -> dict[int, list[int]]:
    """Tokens of each row's text, in whichever batch and line it is."""
    found = {}
    for batch in batches:
        for ids, segments, rows in zip(batch.input_ids_BT, batch.segment_ids_BT, batch.row_ids, strict=True):
            found |= {row: ids[segments == at].tolist() for at, row in enumerate(rows, start=1)}
    return found


def parts(rows: TokenisedRows, row: int) -> tuple[list[int], list[int]]:
    ids, is_label = rows.tokens(row)
    start = int(np.flatnonzero(is_label)[0])
    return ids[:start].tolist(), ids[start:].tolist()


def test_batches_say_which_answers_are_desirable(tmp_path: Path):
    _, rows = prepared(tmp_path)
    labels = [json.loads(line)["label"] for line in (tmp_path / "rated.jsonl").read_text().splitlines()]
    assert rows.is_desirable.tolist() == labels and len(set(labels)) == 2
    batch = collate([(0, 3), (5,)], rows, 0)
    assert batch.is_desirable == (labels[0], labels[3], labels[5])
    assert rows.select(np.array([4, 2])).is_desirable.tolist() == [labels[4], labels[2]]


@pytest.mark.parametrize("sample_packing", [False, True])
def test_each_prompt_of_a_step_has_the_completion_of_the_row_before(tmp_path: Path, sample_packing: bool):
    fields = {"sample_packing": sample_packing, "gradient_accumulation_steps": 2}
    batches, rows = prepared(tmp_path, **fields)
    for step in range(batches.num_steps()):
        own, other = texts_in(batches.step(step, 0, 1)), texts_in(batches.mismatched(step, 0, 1))
        assert own.keys() == other.keys()
        donors = {}
        for row, text in other.items():
            prompt, _ = parts(rows, row)
            assert text[: len(prompt)] == prompt
            (donors[row],) = [each for each in own if parts(rows, each)[1] == text[len(prompt) :]]
        # One round through all rows of the step.
        at, seen = next(iter(donors)), set[int]()
        while at not in seen:
            seen.add(at)
            at = donors[at]
        assert seen == own.keys()


@pytest.mark.parametrize("sample_packing", [False, True])
def test_they_are_the_same_however_rows_are_dealt(tmp_path: Path, sample_packing: bool):
    whole, _ = prepared(tmp_path, micro_batch_size=4, sample_packing=sample_packing)
    small, _ = prepared(
        tmp_path,
        micro_batch_size=1,
        gradient_accumulation_steps=2,
        distributed={"num_workers": 2},
        sample_packing=sample_packing,
    )
    for step in range(whole.num_steps()):
        of_ranks = [small.mismatched(step, rank, 2) for rank in range(2)]
        assert len({len(batches) for batches in of_ranks}) == 1
        assert texts_in([batch for of_rank in of_ranks for batch in of_rank]) == texts_in(whole.mismatched(step, 0, 1))
    once = [batch for rank in range(2) for batch in small.once_mismatched(rank, 2)]
    assert texts_in(once) == texts_in(list(whole.once_mismatched(0, 1)))
    assert len(texts_in(once)) == NUM_ROWS


def test_a_row_that_is_alone_in_its_step_takes_from_the_one_before_in_the_epoch(tmp_path: Path):
    batches, rows = prepared(tmp_path, micro_batch_size=1)
    order = [next(iter(texts_in(batches.step(step, 0, 1)))) for step in range(NUM_ROWS)]
    for step, row in enumerate(order):
        ((found, text),) = texts_in(batches.mismatched(step, 0, 1)).items()
        assert (found, text) == (row, parts(rows, row)[0] + parts(rows, order[step - 1])[1])


@pytest.mark.parametrize("excess", ["truncate", "drop"])
def test_none_is_longer_than_a_row_may_be(tmp_path: Path, excess: str):
    _, whole = prepared(tmp_path)
    longest = int(np.sort(whole.lengths)[NUM_ROWS // 2])
    batches, rows = prepared(tmp_path, sequence_len=longest, excess_length_strategy=excess, sample_packing=True)
    assert max(rows.lengths) <= longest
    texts = texts_in(list(batches.once_mismatched(0, 1)))
    assert max(map(len, texts.values())) == longest
    assert all(batch.input_ids_BT.shape[1] <= longest for batch in batches.once_mismatched(0, 1))
    for at, row_id in enumerate(rows.row_ids):
        prompt, _ = parts(rows, at)
        assert texts[int(row_id)][: len(prompt)] == prompt


def test_another_label_is_another_cache(tmp_path: Path):
    _, rows = prepared(tmp_path)
    file = tmp_path / "rated.jsonl"
    file.write_text(file.read_text().replace("true", "other").replace("false", "true").replace("other", "false"))
    assert np.array_equal(prepared(tmp_path)[1].is_desirable, ~rows.is_desirable)


def rate(tmp_path: Path, labels: list[bool]) -> None:
    rows = [{"prompt": f"p {at}", "completion": f"a {at}", "label": label} for at, label in enumerate(labels)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("labels", "fields", "said"),
    [
        ([True] * 4, {}, "all 4 training rows are desirable and none is undesirable"),
        ([False] * 4, {}, "all 4 training rows are undesirable and none is desirable"),
        ([True] * 8 + [False] * 2, {}, "set kto_desirable_weight between 0.25 and 0.33"),
        ([True] * 8 + [False] * 2, {"kto_undesirable_weight": 2}, "set kto_desirable_weight between 0.50 and 0.67"),
        ([True] * 8 + [False] * 2, {"kto_desirable_weight": 0.25}, None),
        ([True] * 8 + [False] * 2, {"kto_undesirable_weight": 3}, None),
        ([True, False], {}, None),
    ],
)
def test_labels_that_weigh_unalike_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[bool], fields: dict[str, float], said: str | None
):
    rate(tmp_path, labels)
    prepared(tmp_path, **fields)
    told = [record.getMessage() for record in caplog.records if "kto" in record.getMessage().lower()]
    assert (said is None) == (not told)
    assert said is None or said in told[0]
