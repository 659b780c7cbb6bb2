"""Adapters that share a base answer as PEFT does with each alone, in any order, and leave the base alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from raylora.adapters.base import BasePlace, find_base, open_base
from raylora.adapters.one_base import check_same_base, open_one_base
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options, Session
from raylora.adapters.trained_over import holding_of
from raylora.errors import InputError, ModelError
from raylora.model.export import publish_adapter
from raylora.model.source.source import BaseFolder
from raylora.spec.fields.holding import FIELDS
from raylora.store.blob import open_store
from raylora.train.integrity import check_unchanged, checksum
from tests.unit.adapters.made_adapters import PATTERNS
from tests.unit.adapters.peft_saved import said_by_peft, save_peft
from tests.unit.data.small_tokenizer import PLAIN, small_tokenizer
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": PATTERNS,
    "dora-ranks": {"use_dora": True, **PATTERNS},
    "rslora-ranks": {"use_rslora": True, **PATTERNS},
}
CHATS = [
    [{"role": "user", "content": "the model reads a question"}],
    [
        {"role": "system", "content": "Return the number"},
        {"role": "user", "content": "Sum of 1 2 3"},
        {"role": "assistant", "content": "6"},
        {"role": "user", "content": "and of 4 5"},
    ],
]
GREEDY = Options(max_new_tokens=12)
FLOAT32 = {"dtype": "float32"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter of each kind under its name; never written to."""
    folder = tmp_path_factory.mktemp("session")
    base = save_base(folder / "base")
    for seed, (kind, fields) in enumerate(KINDS.items(), start=1):
        save_peft(base, folder / kind, seed, **fields)
    return folder


@pytest.fixture(scope="module")
def session(home: Path) -> Session:
    """Every kind beside the others."""
    return opened(home, *KINDS)


def base_of(home: Path, name: str = "base") -> BaseFolder:
    return find_base(BasePlace(str(home / name)), home / "cache")


def adapters_of(home: Path, *kinds: str) -> dict[str, StoredAdapter]:
    return {kind: read_adapter(str(home / kind)) for kind in kinds}


def opened(home: Path, *kinds: str) -> Session:
    return open_session(base_of(home), adapters_of(home, *kinds), FLOAT32)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_answers_as_with_peft(home: Path, session: Session, kind: str):
    for chat in CHATS:
        said = session.answer(kind, chat, GREEDY)
        assert said.text == said_by_peft(home / "base", home / kind, chat, 12)
        assert 1 <= said.num_tokens <= 12
    assert any(session.answer(kind, chat, GREEDY) != session.answer(None, chat, GREEDY) for chat in CHATS)


def test_an_adapter_that_started_from_the_base_answers_as_with_peft(home: Path, tmp_path: Path):
    trainee = build_tiny(tiny_spec(home / "base", tmp_path, init_lora_weights="pissa"))
    torch.manual_seed(5)
    for parameter in trainee.bank.parameters(0).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    about = {"base_digest": base_of(home).digest}
    uri = publish_adapter(open_store(str(tmp_path)), trainee.bank.export(0), about)
    adapters = {"pissa": read_adapter(uri)}
    place = BasePlace(str(home / "base"))
    session = open_session(open_one_base(adapters, place, home / "cache"), adapters, FLOAT32)
    for chat in CHATS:
        assert session.answer("pissa", chat, GREEDY).text == said_by_peft(home / "base", tmp_path / "adapter", chat, 12)
    assert any(session.answer("pissa", chat, GREEDY) != session.answer(None, chat, GREEDY) for chat in CHATS)


def test_the_base_answers_as_without_adapters(home: Path, session: Session):
    for chat in CHATS:
        session.answer("dora", chat, GREEDY)
        assert session.answer(None, chat, GREEDY) == opened(home).answer(None, chat, GREEDY)
        assert session.answer(None, chat, GREEDY).text == said_by_peft(home / "base", None, chat, 12)


@pytest.mark.slow
def test_in_any_order_each_answers_as_alone(home: Path, session: Session):
    alone = {kind: [opened(home, kind).answer(kind, chat, GREEDY) for chat in CHATS] for kind in KINDS}
    for kinds in (list(KINDS), list(reversed(KINDS))):
        for at, chat in enumerate(CHATS):
            for kind in kinds:
                assert session.answer(kind, chat, GREEDY) == alone[kind][at]


def test_the_base_is_loaded_once_and_not_written_to(home: Path):
    session = opened(home, "lora", "dora")
    trainee = session._trainee
    model, before = trainee.model, checksum(trainee)
    for name in ("lora", None, "dora", "lora"):
        session.answer(name, CHATS[0], GREEDY)
    assert session._trainee is trainee and trainee.model is model
    check_unchanged(trainee, before)
    assert not any(name.count("lora") for name, _ in model.named_parameters())


def test_a_seed_draws_the_same_again_and_another_draws_otherwise(session: Session):
    def drawn(seed: int, name: str | None = "lora", **fields: float) -> str:
        return session.answer(name, CHATS[0], Options(20, **{"temperature": 1.0, **fields}, seed=seed)).text

    state = torch.get_rng_state()
    first = drawn(1)
    torch.randn(3)
    assert drawn(1) == first
    assert len({drawn(seed) for seed in range(4)}) > 1
    assert drawn(1, top_p=1e-6) == drawn(2, top_p=1e-6) == drawn(3, temperature=0.0)
    torch.set_rng_state(state)
    drawn(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_is_told_as_it_is_written(session: Session):
    parts: list[str] = []
    said = session.answer("lora", CHATS[0], Options(40), parts.append)
    assert "".join(parts).strip() == said.text == session.answer("lora", CHATS[0], Options(40)).text
    assert said.num_tokens > 3


def test_an_answer_stops_where_it_is_asked_to(session: Session):
    asked: list[int] = []

    def is_stopped() -> bool:
        asked.append(1)
        return len(asked) == 3

    said = session.answer("lora", CHATS[0], Options(40), is_stopped=is_stopped)
    assert said.num_tokens == 3
    assert session.answer("lora", CHATS[0], Options(3)).text == said.text


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A base of few positions."""
    folder = tmp_path_factory.mktemp("short")
    save_base(folder / "base", max_position_embeddings=120)
    return opened(folder)


def turns(num_turns: int) -> list[dict[str, str]]:
    """Questions and answers, each with its number."""
    texts = [(f"question {at}", f"answer {at}") for at in range(num_turns)]
    said = [[("user", asked), ("assistant", answered)] for asked, answered in texts]
    return [{"role": role, "content": content} for pair in said for role, content in pair]


def test_a_conversation_that_is_too_long_loses_its_oldest_turns(short: Session):
    system, question = {"role": "system", "content": "You help."}, {"role": "user", "content": "question"}
    chat = [system, *turns(12), question]
    with pytest.raises(InputError, match="the base has 120 positions"):
        short.check(chat)
    kept = short.fit(chat, Options(20))
    assert kept[0] == system and kept[1]["role"] == "user" and kept[-1] == question
    assert 3 < len(kept) < len(chat)
    assert kept[1:] == chat[-len(kept) + 1 :]
    assert short.answer(None, kept, Options(20)).num_tokens <= 20
    assert short.fit(chat[:2], Options(20)) == chat[:2]


def test_an_answer_ends_with_the_bases_positions(short: Session):
    chat = [{"role": "user", "content": "the model reads"}]
    room = 120 - short._ids(chat).shape[1]
    said = short.answer(None, chat, Options(1000, temperature=1.0))
    assert 1 <= said.num_tokens <= room < 1000
    long = [{"role": "user", "content": "0 1 2 3 4 5 6 7 8 9 " * 20}]
    with pytest.raises(InputError, match=r"prompt: \d+ tokens .* 120 positions\. Allowed: at most 119 tokens"):
        short.answer(None, short.fit(long, GREEDY), GREEDY)


def test_a_base_without_a_template_goes_on_with_the_text(home: Path, tmp_path: Path):
    folder = tmp_path / "base"
    shutil.copytree(home / "base", folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    small_tokenizer(None).save_pretrained(folder)
    session = open_session(base_of(tmp_path), {}, FLOAT32)
    assert not session.has_template
    assert session.answer(None, CHATS[1], GREEDY).text == said_by_peft(folder, None, CHATS[1], 12)


def test_an_adapter_that_is_not_open_is_named(session: Session):
    with pytest.raises(InputError, match=r"'other' is not open\. Open: lora, rslora, dora"):
        session.answer("other", CHATS[0], GREEDY)


def test_all_adapters_that_do_not_fit_are_named(home: Path, tmp_path: Path):
    save_base(tmp_path / "base", num_hidden_layers=2)
    with pytest.raises(ModelError) as refused:
        open_session(base_of(tmp_path), adapters_of(home, "lora", "dora"), FLOAT32)
    assert all(str(home / kind) in str(refused.value) for kind in ("lora", "dora"))


def told(adapter: StoredAdapter, about: Mapping[str, Any], **config: Any) -> StoredAdapter:
    return StoredAdapter(adapter.uri, adapter.tensors, {**adapter.config, **config}, about)


def test_adapters_of_different_bases_are_all_named(home: Path):
    lora = read_adapter(str(home / "lora"))
    ours = told(lora, {"base_digest": "a" * 64}, base_model_name_or_path="org/one")
    plain = told(lora, {}, base_model_name_or_path="org/one")
    other = told(lora, {"base_digest": "b" * 64}, base_model_name_or_path="org/one")
    check_same_base({"x": ours, "y": plain})
    with pytest.raises(ModelError, match="2 adapters of 2 bases") as refused:
        check_same_base({"x": ours, "z": other})
    assert f"x: org/one, digest {'a' * 12}" in str(refused.value)
    assert f"z: org/one, digest {'b' * 12}" in str(refused.value)
    with pytest.raises(ModelError, match="2 adapters of 2 bases"):
        check_same_base({"x": ours, "w": lora})


def test_a_base_that_they_were_not_trained_on_is_refused_for_each(home: Path):
    lora = read_adapter(str(home / "lora"))
    digest = base_of(home).digest
    adapters = {name: told(lora, {"base_digest": end * 64}) for name, end in (("x", "a"), ("y", "b"))}
    with pytest.raises(ModelError) as refused:
        open_one_base(adapters, BasePlace(str(home / "base")), home / "cache")
    assert all(end * 12 in str(refused.value) for end in ("a", "b"))
    assert open_one_base({"z": told(lora, {"base_digest": digest})}, None, home / "cache").digest == digest


def test_a_base_that_is_not_where_its_name_says_is_asked_for(home: Path):
    lost = told(read_adapter(str(home / "lora")), {}, base_model_name_or_path=str(home / "not there"))
    with pytest.raises(ModelError, match="say where it is with --base"):
        open_one_base({"x": lost}, None, home / "cache")
    with pytest.raises(ModelError, match="say where it is with --base"):
        open_base(lost, None, home / "cache")
    nameless = told(lost, {"base_digest": "a" * 64}, base_model_name_or_path=None)
    with pytest.raises(ModelError) as refused:
        open_base(nameless, BasePlace(str(home / "base")), home / "cache")
    assert "Name the base it was trained on with --base" in str(refused.value)


def test_the_chat_template_of_the_runs_is_used(home: Path, session: Session):
    own = open_session(base_of(home), adapters_of(home, "lora"), FLOAT32, PLAIN)
    assert torch.equal(own._ids(CHATS[0])[0], torch.tensor(small_tokenizer(PLAIN)(as_text_of(CHATS[0]))["input_ids"]))
    assert not torch.equal(own._ids(CHATS[0]), session._ids(CHATS[0]))


def as_text_of(chat: list[dict[str, str]]) -> str:
    return "".join(f"{message['role']}:\n{message['content']}\n" for message in chat) + "assistant:\n"


def test_the_base_is_held_as_the_lineage_says(home: Path):
    lora = read_adapter(str(home / "lora"))
    assert holding_of({"x": lora}) == "none"
    assert holding_of({"x": lora, "y": told(lora, {"quantization": "fp4"})}) == "fp4"
    with pytest.raises(ModelError, match=r"in several ways \(x: none, y: int8\).*--load-in-4bit"):
        holding_of({"x": told(lora, {"quantization": "none"}), "y": told(lora, {"quantization": "int8"})})
    with pytest.raises(ModelError, match="x was trained over a base held as 'int3'"):
        holding_of({"x": told(lora, {"quantization": "int3"})})


def test_a_quantized_base_answers_otherwise_than_a_plain_one(home: Path, session: Session):
    fields = {**FLOAT32, **FIELDS["nf4-double"]}
    quantized = open_session(base_of(home), adapters_of(home, "lora"), fields)
    longer = Options(24)
    assert any(quantized.answer("lora", chat, longer) != session.answer("lora", chat, longer) for chat in CHATS)
