"""Prompts answered on the command line: what a session answers, plainly, side by side and as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.stored import read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options, Session
from raylora.model.adapter.bank import Adapter
from raylora.model.export import publish_adapter
from raylora.spec.run import RunSpec
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.runs import new_run, run_store, update_run, write_run
from tests.unit.adapters.peft_saved import save_peft
from tests.unit.cli.conftest import Raylora
from tests.unit.cli.terminal import cells
from tests.unit.data.small_tokenizer import PLAIN
from tests.unit.train.tiny_run import save_base

PROMPTS = ["the model reads", "Sum of 1 2 3"]
SHORT = ("--max-new-tokens", "8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and two adapters over it; never written to."""
    folder = tmp_path_factory.mktemp("generate")
    save_base(folder / "base")
    save_peft(folder / "base", folder / "one", 1)
    save_peft(folder / "base", folder / "two", 2, use_dora=True)
    return folder


@pytest.fixture(scope="module")
def session(home: Path) -> Session:
    """Both adapters, without the command line."""
    base = find_base(BasePlace(str(home / "base")), home / "cache")
    return open_session(base, {name: read_adapter(str(home / name)) for name in ("one", "two")}, {})


def said(session: Session, name: str | None, prompt: str, system: str | None = None) -> str:
    before = [{"role": "system", "content": system}] if system else []
    return session.answer(name, [*before, {"role": "user", "content": prompt}], Options(8)).text


def test_one_adapter_and_one_prompt_are_plain_text(raylora: Raylora, home: Path, session: Session):
    told = raylora("generate", home / "one", "--prompt", PROMPTS[0], *SHORT)
    assert (told.code, told.out) == (0, said(session, "one", PROMPTS[0]) + "\n")


def test_several_prompts_stand_above_their_answers(raylora: Raylora, home: Path, session: Session):
    told = raylora("generate", home / "one", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], *SHORT)
    assert told.out == "\n\n".join(f"> {prompt}\n{said(session, 'one', prompt)}" for prompt in PROMPTS) + "\n"


def test_a_base_alone_answers(raylora: Raylora, home: Path, session: Session):
    told = raylora("generate", "--base", home / "base", "--prompt", PROMPTS[0], *SHORT)
    assert (told.code, told.out) == (0, said(session, None, PROMPTS[0]) + "\n")


def test_every_adapter_and_the_base_answer_every_prompt(raylora: Raylora, home: Path, session: Session):
    one, two = str(home / "one"), str(home / "two")
    words = ("generate", one, two, "--with-base", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], *SHORT)
    told = raylora(*words, "--system", "You help.", "--json")
    assert told.code == 0
    names = {None: None, one: "one", two: "two"}
    assert [(each["prompt"], each["adapter"], each["text"]) for each in told.json["answers"]] == [
        (prompt, name, said(session, alone, prompt, "You help.")) for prompt in PROMPTS for name, alone in names.items()
    ]
    assert all(1 <= each["tokens"] <= 8 for each in told.json["answers"])
    assert told.json["tokens_per_s"] > 0
    table = cells(raylora(*words).out)
    assert any(row[:1] == ["prompt"] and "(base)" in row for row in table)
    assert all(any(row[:1] == [prompt] for row in table) for prompt in PROMPTS)


def test_what_a_model_writes_is_no_markup(raylora: Raylora, home: Path):
    prompt = "the [bold]model[/] says :smile:"
    told = raylora("generate", home / "one", "--with-base", "--prompt", prompt, *SHORT)
    assert prompt in told.out


def test_drawing_takes_the_seed(raylora: Raylora, home: Path):
    words = ("generate", home / "one", "--prompt", PROMPTS[0], "--temperature", "1", *SHORT)
    texts = [raylora(*words, "--seed", seed).out for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", f"{PROMPTS[0]}\n\n  {PROMPTS[1]}\n"),
        ("prompts.jsonl", "".join(json.dumps({"prompt": prompt, "more": 1}) + "\n" for prompt in PROMPTS)),
    ],
)
def test_prompts_of_a_file(raylora: Raylora, home: Path, tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    told = raylora("generate", home / "one", "--prompt", "first", "--file", tmp_path / name, *SHORT, "--json")
    assert [each["prompt"] for each in told.json["answers"]] == ["first", *PROMPTS]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("no.txt", None, "cannot be read (No such file or directory)"),
        ("empty.jsonl", "\n \n", "has no prompt"),
        ("rows.csv", "prompt\nx\n", "got the ending '.csv'. Allowed: .jsonl, .txt"),
        ("bad.jsonl", '{"prompt": "x"}\n{"prompt": 1}\n\n[2]\n{"text": "x"}\n', "3 malformed: line 2: "),
        ("latin.txt", b"caf\xe9\n", "line 1: not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(
    raylora: Raylora, home: Path, tmp_path: Path, name: str, text: str | bytes | None, problem: str
):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    told = raylora("generate", home / "one", "--file", tmp_path / name)
    assert (told.code, told.out) == (2, "")
    assert problem in told.err and name in told.err
    if name == "bad.jsonl":
        assert "line 4: '[2]'; line 5:" in told.err


def test_all_that_is_wrong_is_told_at_once(raylora: Raylora, tmp_path: Path):
    numbers = ("--temperature=-1", "--top-p=0", "--max-new-tokens=0", "--load-in-4bit", "--no-quantize")
    told = raylora("generate", *numbers, "--prompt", " ", "--file", tmp_path / "no.txt")
    assert told.code == 2
    for problem in (
        "ADAPTER: got none, and no --base",
        "--temperature: got -1. Allowed: 0 or more",
        "--top-p: got 0. Allowed: above 0 and up to 1",
        "--max-new-tokens: got 0. Allowed: 1 or more",
        "--load-in-4bit, --no-quantize: these exclude each other",
        "--prompt: got an empty text",
        "no.txt: cannot be read",
    ):
        assert problem in told.err, problem


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_temperature_that_is_no_number_is_refused(raylora: Raylora, home: Path, number: str):
    told = raylora("generate", home / "one", "--prompt", "x", "--temperature", number)
    assert (told.code, told.out) == (2, "")
    assert f"--temperature: got {number}" in told.err


def test_no_prompt_is_refused(raylora: Raylora, home: Path):
    told = raylora("generate", home / "one")
    assert told.code == 2
    assert "--prompt: got none, and no --file" in told.err


def test_adapters_that_are_not_there_are_all_named(raylora: Raylora, home: Path, tmp_path: Path):
    told = raylora("generate", home / "one", tmp_path / "x", tmp_path / "y", "--prompt", "x")
    assert told.code == 2
    assert all(f"{tmp_path / name} has no adapter_config.json" in told.err for name in ("x", "y"))


def test_words_prompts_and_adapters_that_are_wrong_are_told_at_once(raylora: Raylora, home: Path, tmp_path: Path):
    told = raylora("generate", home / "one", tmp_path / "x", "--temperature=-1", "--file", tmp_path / "no.txt")
    assert (told.code, told.out) == (2, "")
    for problem in ("--temperature: got -1", "no.txt: cannot be read", f"{tmp_path / 'x'} has no adapter_config.json"):
        assert problem in told.err, problem


def test_a_base_that_is_no_address_is_refused(raylora: Raylora, home: Path):
    told = raylora("generate", "--base", "", "--prompt", "x")
    assert (told.code, told.out) == (2, "")
    assert "base: String should have at least 1 character" in told.err and "Say it with --base" in told.err


def test_a_pickle_is_not_read(raylora: Raylora, home: Path, tmp_path: Path):
    shutil.copytree(home / "one", tmp_path / "one")
    (tmp_path / "one" / "adapter_model.safetensors").rename(tmp_path / "one" / "adapter_model.bin")
    told = raylora("generate", tmp_path / "one", "--prompt", "x")
    assert (told.code, told.out) == (2, "")
    assert "has adapter_model.bin. Allowed: adapter_model.safetensors, since reading a pickle can run code" in told.err


def test_adapters_of_different_bases_are_named(raylora: Raylora, home: Path, tmp_path: Path):
    save_base(tmp_path / "other", num_hidden_layers=2)
    save_peft(tmp_path / "other", tmp_path / "adapter")
    told = raylora("generate", home / "one", tmp_path / "adapter", "--prompt", "x")
    assert told.code == 2
    assert "2 adapters of 2 bases" in told.err
    assert f"{home / 'one'}: {home / 'base'}" in told.err
    assert f"{tmp_path / 'adapter'}: {tmp_path / 'other'}" in told.err


def test_prompts_without_room_for_an_answer_are_all_named(raylora: Raylora, tmp_path: Path):
    save_base(tmp_path / "base", max_position_embeddings=80)
    long = "0 1 2 3 4 5 6 7 8 9 " * 8
    words = ("--prompt", "x", "--prompt", long, "--prompt", long)
    told = raylora("generate", "--base", tmp_path / "base", *words)
    assert (told.code, told.out) == (2, "")
    assert all(f"prompt {number} of 3" in told.err for number in (2, 3))
    assert "prompt 1 of 3" not in told.err


def ended(home: Path, about: Mapping[str, object], **fields: object) -> str:
    """A run whose adapter is the first."""
    store = open_store(default_store_uri())
    asked = {"base_model": str(home / "base"), "datasets": [{"path": "rows"}], **fields}
    record = write_run(store, new_run(RunSpec.model_validate(asked)))
    adapter = read_adapter(str(home / "one"))
    base = find_base(BasePlace(str(home / "base")), home / "cache")
    kept = Adapter(dict(adapter.tensors), {**adapter.config, "base_model_name_or_path": "tiny/llama"})
    uri = publish_adapter(run_store(store, record.run_id), kept, {"base_digest": base.digest, **about})
    update_run(store, record.run_id, status="finished", result={"adapter_uri": uri})
    return record.run_id


@pytest.fixture
def trained(raylora: Raylora, home: Path) -> str:
    """A run whose base was held in 4 bits."""
    return ended(home, {"quantization": "nf4-double"}, load_in_4bit=True)


def test_loftq_over_a_base_held_otherwise_is_warned_of(raylora: Raylora, home: Path):
    run_id = ended(home, {"quantization": "nf4-double", "init_lora_weights": "loftq"}, load_in_4bit=True)
    words = ("generate", run_id, "--prompt", PROMPTS[0], *SHORT)
    assert "LoftQ" not in raylora(*words).err
    told = raylora(*words, "--no-quantize")
    assert told.code == 0
    assert f"{run_id} started as LoftQ over a base held as nf4-double" in told.err


def test_a_run_answers_with_its_own_chat_template(raylora: Raylora, home: Path, session: Session, tmp_path: Path):
    own, other = ended(home, {}, chat_template=PLAIN), ended(home, {})
    base = find_base(BasePlace(str(home / "base")), home / "cache")
    alone = open_session(base, {"one": read_adapter(str(home / "one"))}, {}, PLAIN)
    words = ("--prompt", PROMPTS[0], *SHORT)
    assert raylora("generate", own, *words).out == said(alone, "one", PROMPTS[0]) + "\n"
    assert raylora("generate", other, *words).out == said(session, "one", PROMPTS[0]) + "\n"
    told = raylora("generate", own, other, *words)
    assert told.code == 2
    assert f"chat_template: the adapters were trained with several ({own}: its own, {other}: that of" in told.err
    gone = ended(home, {}, chat_template=str(tmp_path / "gone.jinja"))
    told = raylora("generate", gone, *words)
    assert told.code == 2
    assert "gone.jinja is neither Jinja text nor a file" in told.err and "name the adapter's folder" in told.err


def test_a_run_answers_over_the_base_as_it_was_held(raylora: Raylora, trained: str, home: Path, session: Session):
    words = ("generate", trained, "--prompt", PROMPTS[0], *SHORT)
    held = raylora(*words)
    assert (held.code, "held as nf4 on" in held.err) == (0, True)
    told = raylora(*words, "--no-quantize")
    assert (told.code, told.out) == (0, said(session, "one", PROMPTS[0]) + "\n")
    assert "held as none on" in told.err
    assert "held as int8 on" in raylora(*words, "--load-in-8bit").err


def test_a_base_that_a_run_was_not_trained_on_is_refused(raylora: Raylora, trained: str, tmp_path: Path):
    save_base(tmp_path / "other", hidden_size=32)
    told = raylora("generate", trained, "--base", tmp_path / "other", "--prompt", "x")
    assert told.code == 2
    assert "was trained on another base than" in told.err
