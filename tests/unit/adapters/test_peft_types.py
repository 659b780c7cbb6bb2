"""Adapters of PEFT's other types answer as in PEFT, beside others over one base, and are merged as PEFT merges them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftType, PromptTuningConfig, get_peft_model

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.layers import deltas, needs_peft
from raylora.adapters.merging.content import content_of
from raylora.adapters.merging.merge import write_merged
from raylora.adapters.merging.plan import MergeSettings, plan_merge
from raylora.adapters.stored import StoredAdapter, read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options, Session
from raylora.errors import ModelError
from raylora.model.source.source import BaseFolder
from raylora.spec.fields.holding import FIELDS
from raylora.train.integrity import check_unchanged, checksum
from tests.reference.naive_lora import base_of as packed_base_of
from tests.reference.peft_types import ATTENTION, TYPES, block_of
from tests.unit.adapters.made_adapters import IDS, by_peft, load_model, replace_tensors, tensors_of
from tests.unit.adapters.peft_published import publish_block
from tests.unit.adapters.peft_saved import said_by_peft
from tests.unit.train.tiny_run import save_base, tiny_spec

pytestmark = pytest.mark.slow

CHATS = [
    [{"role": "user", "content": "the model reads a question"}],
    [{"role": "user", "content": "Sum of 1 2 3"}],
]
GREEDY = Options(max_new_tokens=10)
FLOAT32 = {"dtype": "float32"}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **ATTENTION}
OF_LORA: dict[str, dict[str, Any]] = {
    "norm": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [5, 80, 33]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "qalora": {"use_qalora": True},
}
"""Fields with which an adapter is more than two matrices a linear layer."""

MATRICES = {"LORA", "VERA"}
"""Types that raylora computes itself."""

WITH_BIASES = ["BEFT", "IA3", "ROAD", "LORA", "BOFT"]
"""The first three change a layer's bias."""

IN_PEFT = sorted(TYPES.keys() - {"BEFT"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter of each type in a folder of its name; never written to."""
    folder = tmp_path_factory.mktemp("types")
    base = save_base(folder / "base", num_hidden_layers=2)
    for kind in TYPES:
        publish_block(base, folder / kind, block_of(kind))
    return folder


@pytest.fixture(scope="module")
def session(home: Path) -> Session:
    """Every type beside the others."""
    return opened(home, *TYPES)


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose linear layers have biases."""
    folder = tmp_path_factory.mktemp("biased")
    base = save_base(folder / "base", num_hidden_layers=2, attention_bias=True, mlp_bias=True)
    torch.manual_seed(4)
    biases = {name: 0.3 * torch.randn_like(each) for name, each in tensors_of(base).items() if name.endswith("bias")}
    assert biases
    replace_tensors(base, biases)
    return folder


def base_in(home: Path) -> BaseFolder:
    return find_base(BasePlace(str(home / "base")), home / "cache")


def of(home: Path, kind: str) -> StoredAdapter:
    return read_adapter(str(home / kind / "adapter"))


def opened(home: Path, *kinds: str, **fields: Any) -> Session:
    return open_session(base_in(home), {kind: of(home, kind) for kind in kinds}, {**FLOAT32, **fields})


def said(session: Session, kind: str | None) -> list[str]:
    return [session.answer(kind, chat, GREEDY).text for chat in CHATS]


def merged(home: Path, kind: str, out: Path, **settings: Any) -> tuple[Any, Any]:
    """Merge into a folder; returns the agreement of logits, and what was told."""
    stored, base = of(home, kind), base_in(home)
    layers = None if needs_peft(stored) else deltas(stored, BasePlace(str(base.path)))
    content = content_of(stored, layers, base)
    plan = plan_merge(stored, content.changes, base, MergeSettings(**settings))
    wanted = content.wanted(plan.rounding)
    out.mkdir()
    told = write_merged(plan, out)
    agreement = wanted.compare(out)
    agreement.check(plan.tolerance)
    return agreement, told


def assert_merged_as_by_peft(home: Path, kind: str, out: Path) -> set[str]:
    """Tensors and logits are PEFT's; returns the last names of the tensors that changed."""
    agreement, _ = merged(home, kind, out)
    assert agreement.argmax_agrees and agreement.max_difference < 1e-4
    adapter, base = home / kind / "adapter", home / "base"
    found, before, wanted = tensors_of(out), tensors_of(base), by_peft(base, adapter)
    assert found.keys() == before.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    with torch.no_grad():
        unmerged = PeftModel.from_pretrained(load_model(base), adapter).eval()(IDS).logits
        torch.testing.assert_close(load_model(out)(IDS).logits, unmerged, rtol=0, atol=1e-4)
        assert not torch.allclose(unmerged, load_model(base)(IDS).logits, atol=1e-2)
    return {".".join(name.split(".")[-2:]) for name in found if not torch.equal(found[name], before[name])}


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_answers_as_in_peft(home: Path, session: Session, kind: str):
    found = said(session, kind)
    assert found == [said_by_peft(home / "base", home / kind / "adapter", chat, 10) for chat in CHATS]
    assert found != said(session, None)


@pytest.mark.parametrize("kind", IN_PEFT)
def test_a_type_is_merged_as_by_peft(home: Path, tmp_path: Path, kind: str):
    assert needs_peft(of(home, kind)) == (kind not in MATRICES)
    assert assert_merged_as_by_peft(home, kind, tmp_path / "out")


@pytest.mark.parametrize("kind", WITH_BIASES)
def test_biases_are_merged_too(biased: Path, tmp_path: Path, kind: str):
    publish_block(biased / "base", biased / kind, block_of(kind))
    changed = assert_merged_as_by_peft(biased, kind, tmp_path / "out")
    assert any(name.endswith("bias") for name in changed) == (kind in WITH_BIASES[:3])


@pytest.mark.parametrize("name", OF_LORA)
def test_a_lora_of_more_than_matrices_goes_the_same_way(home: Path, tmp_path: Path, name: str):
    (tmp_path / "base").symlink_to(home / "base")
    publish_block(home / "base", tmp_path / name, {**LORA, **OF_LORA[name]})
    assert needs_peft(of(tmp_path, name))
    found = said(opened(tmp_path, name), name)
    assert found == [said_by_peft(home / "base", tmp_path / name / "adapter", chat, 10) for chat in CHATS]
    assert assert_merged_as_by_peft(tmp_path, name, tmp_path / "out")


@pytest.mark.parametrize("holding", ["nf4-double", "int8"])
@pytest.mark.parametrize("kind", ["LORA", "BOFT", "LOHA", "LN_TUNING", "TRAINABLE_TOKENS"])
def test_a_quantized_base_answers_as_its_values_do_in_peft(home: Path, kind: str, holding: str):
    session = opened(home, kind, **FIELDS[holding])
    model = packed_base_of(tiny_spec(home / "base", home / "none", **FIELDS[holding]))
    wanted = PeftModel.from_pretrained(model, home / kind / "adapter").eval()
    with torch.no_grad(), session._answering(kind):
        found = session._trainee.model(IDS).logits
        torch.testing.assert_close(found, wanted(IDS).logits, rtol=0, atol=2e-5)
    with torch.no_grad(), session._answering(None):
        assert not torch.allclose(session._trainee.model(IDS).logits, found, atol=1e-3)


def test_in_any_order_each_answers_as_alone(home: Path):
    kinds = ["LORA", "LOHA", "BOFT", "VERA", "LN_TUNING", "TRAINABLE_TOKENS", None]
    session = opened(home, *(kind for kind in kinds if kind is not None))
    trainee = session._trainee
    before = checksum(trainee)
    alone = {kind: said(opened(home, *([] if kind is None else [kind])), kind) for kind in kinds}
    assert len(set(map(tuple, alone.values()))) == len(kinds)
    for kind in [*kinds, *reversed(kinds), *kinds]:
        assert said(session, kind) == alone[kind]
    check_unchanged(trainee, before)
    names = [name for name, _ in trainee.model.named_modules()]
    assert names == [name for name, _ in opened(home)._trainee.model.named_modules()]


def test_what_is_written_in_bfloat16_is_told_and_let_pass(home: Path, tmp_path: Path):
    agreement, told = merged(home, "BOFT", tmp_path / "out", dtype="bfloat16", requantize="nf4")
    assert agreement.max_difference > 1e-4
    assert told.requantize_error is not None
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}


def refused(adapter: StoredAdapter, home: Path) -> str:
    """What merging says, which is what a session says where both refuse."""
    with pytest.raises(ModelError) as by_merging:
        content_of(adapter, None, base_in(home))
    return str(by_merging.value)


def refused_by_both(adapter: StoredAdapter, home: Path) -> str:
    told = refused(adapter, home)
    with pytest.raises(ModelError) as by_session:
        open_session(base_in(home), {"a": adapter}, FLOAT32)
    assert str(by_session.value) == told
    return told


def changed(adapter: StoredAdapter, tensors: Mapping[str, Any] | None = None, **config: Any) -> StoredAdapter:
    return StoredAdapter(adapter.uri, tensors or adapter.tensors, {**adapter.config, **config}, {})


def test_biases_that_the_base_has_no_place_for_are_refused(home: Path):
    told = refused(of(home, "BEFT"), home)
    assert "is BEFT, which PEFT cannot merge into model.layers.0.self_attn.k_proj of base" in told
    assert "Base layer has no bias" in told and "raylora chat" in told


def test_a_tied_embedding_is_refused(tmp_path: Path):
    base = save_base(tmp_path / "base", num_hidden_layers=1, tie_word_embeddings=True)
    publish_block(base, tmp_path / "a", {**LORA, **OF_LORA["embedding"]})
    with pytest.raises(ModelError, match=r"model\.embed_tokens shares its weight with the output head"):
        merged(tmp_path, "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_types_that_are_more_than_layers_are_refused(home: Path, tmp_path: Path):
    model = get_peft_model(load_model(home / "base"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    model.save_pretrained(tmp_path)
    told = refused_by_both(read_adapter(str(tmp_path)), home)
    assert "is PROMPT_TUNING: it puts tokens of its own before each row" in told
    assert "PEFT's PeftModel" in told


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LATER"}, "has peft_type 'LATER', which this PEFT does not have"),
        ({"peft_type": [1]}, "which this PEFT does not have"),
        ({"task_type": "SEQ_CLS"}, "was trained for SEQ_CLS"),
        ({"target_modules": 7}, "is LOHA, and PEFT"),
        (
            {"target_modules": ["no_such"]},
            "cannot put it on LlamaForCausalLM (NoMatchingPeftModuleError: Target modules",
        ),
        ({"r": 8}, "size mismatch"),
        ({"peft_type": PeftType.LOKR.value}, "lacks 8 of the 8 tensors that its type trains"),
        ({"target_modules": ["q_proj"]}, "has 8 tensors that its type has no place for"),
    ],
)
def test_what_does_not_fit_is_refused(home: Path, config: dict[str, Any], message: str):
    told = refused_by_both(changed(of(home, "LOHA"), **config), home)
    assert message in told, told


def test_an_adapter_that_lacks_a_tensor_is_refused(home: Path):
    whole = of(home, "LOHA")
    first, *rest = whole.tensors
    told = refused_by_both(changed(whole, {name: whole.tensors[name] for name in rest}), home)
    assert "lacks 1 of the 16 tensors that its type trains" in told
    assert first.removeprefix("base_model.model.") in told.replace(".default", "")


def test_all_that_does_not_fit_a_base_is_told_at_once(home: Path, tmp_path: Path):
    save_base(tmp_path / "base", num_hidden_layers=1)
    adapters = {kind: of(home, kind) for kind in ("LOHA", "LORA", "BOFT")}
    with pytest.raises(ModelError) as error:
        open_session(base_in(tmp_path), {**adapters, "LORA": changed(adapters["LORA"], r=4)}, FLOAT32)
    assert all(adapters[kind].uri in str(error.value) for kind in ("LOHA", "BOFT"))
