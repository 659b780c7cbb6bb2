"""What a server would reject, or read wrongly, is refused with the way out: all at once, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylora.adapters.base import BasePlace
from raylora.adapters.layers import deltas
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.serving.servers import SERVERS
from raylora.errors import InputError, ModelError
from tests.unit.adapters.exported_adapters import adapted, all_bytes, published, saved, stored
from tests.unit.model.tiny import save_tiny

Q = "model.layers.{}.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_tiny(folder)
    return folder


@pytest.mark.parametrize("word", [word for word in SERVERS if word != "peft"])
def test_dora_is_refused_with_the_way_out(base: Path, tmp_path: Path, word: str):
    adapter = published(adapted(base, use_dora=True), tmp_path / "store")
    with pytest.raises(InputError, match=r"use_dora: .* loads no DoRA adapter\. Merge it: raylora merge "):
        export_adapter(adapter, Asked(word, tmp_path / "out", place=BasePlace(str(base))))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("word", SERVERS)
@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 3), 0], ids=["empty", "of another rank", "1-D"])
def test_matrices_that_do_not_belong_together_are_refused(base: Path, tmp_path: Path, word: str, rows: slice | int):
    whole = published(adapted(base), tmp_path / "store")
    name = next(name for name in whole.tensors if "lora_A" in name)
    broken = replace(whole, tensors={**whole.tensors, name: whole.tensors[name][rows]})
    with pytest.raises(InputError, match="lacks a matrix, or has one of a wrong shape, at "):
        export_adapter(broken, Asked(word, tmp_path / "out", place=BasePlace(str(base))))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_magnitudes_are_not_cut_off_by_a_smaller_rank(base: Path, tmp_path: Path):
    adapter = published(adapted(base, use_dora=True), tmp_path / "store")
    with pytest.raises(InputError, match="--max-rank: got 2 for DoRA of rank 4"):
        export_adapter(adapter, Asked("peft", tmp_path / "out", max_rank=2))


@pytest.mark.parametrize("word", ["vllm", "ray-serve"])
def test_a_rank_above_the_servers_largest_is_refused_and_a_smaller_one_is_the_way_out(tmp_path: Path, word: str):
    adapter = stored({"r": 600}, {Q.format(0): (640, 640, 600)})
    with pytest.raises(InputError, match=r"r: got 600; the largest --max-lora-rank of .* is 512\..*--max-rank 512"):
        export_adapter(adapter, Asked(word, tmp_path / "out"))
    assert export_adapter(adapter, Asked(word, tmp_path / "out", max_rank=512)).r == 512


@pytest.mark.parametrize(
    ("layers", "is_whole"),
    [
        ([Q.format(0), Q.format(1)], True),
        ([Q.format(1)], False),
        ([Q.format(0), Q.format(1), "model.layers.1.mlp.up_proj"], False),
        ([Q.format(0), "model.layers.0.mlp.up_proj"], True),
    ],
)
def test_lorax_wants_a_kind_of_layer_in_every_block(tmp_path: Path, layers: list[str], is_whole: bool):
    adapter = stored({}, dict.fromkeys(layers, (8, 8, 4)))
    export_adapter(adapter, Asked("vllm", tmp_path / "vllm"))
    if is_whole:
        export_adapter(adapter, Asked("lorax", tmp_path / "lorax"))
        return
    with pytest.raises(InputError, match="LoRAX takes up a kind of layer only where each block has one"):
        export_adapter(adapter, Asked("lorax", tmp_path / "lorax"))


def test_lorax_is_said_to_leave_out_what_it_does_not_know_and_to_be_slow_at_large_ranks(tmp_path: Path):
    adapter = stored({"r": 200}, {"model.layers.0.own_proj": (256, 256, 200)})
    told = " ".join(export_adapter(adapter, Asked("lorax", tmp_path / "out")).warnings)
    assert "does not know: own_proj" in told
    assert "kernels up to rank 128 and this adapter has 200" in told


@pytest.mark.parametrize(("kind", "is_known"), [("q_proj", True), ("query_key_value", False)])
def test_sglang_is_said_not_to_start_with_names_of_layers_that_it_does_not_know(
    tmp_path: Path, kind: str, is_known: bool
):
    adapter = stored({}, {f"model.layers.0.{kind}": (8, 8, 4)})
    told = " ".join(export_adapter(adapter, Asked("sglang", tmp_path / "out")).warnings)
    assert (f"does not start with the rest: {kind}" in told) is not is_known


@pytest.mark.parametrize("field", ["modules_to_save", "target_parameters"])
def test_what_is_more_than_two_matrices_is_refused(tmp_path: Path, field: str):
    adapter = stored({field: ["lm_head"]}, {Q.format(0): (8, 8, 4)})
    with pytest.raises(InputError, match=rf"{field}: got \['lm_head'\]; SGLang loads A and B of linear layers alone"):
        export_adapter(adapter, Asked("sglang", tmp_path / "out"))


def test_biases_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"bias 'all'.*Merge it with PEFT"):
        export_adapter(stored({"bias": "all"}, {Q.format(0): (8, 8, 4)}), Asked("vllm", tmp_path / "out"))


def test_all_reasons_are_told_at_once_and_nothing_is_left_behind(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    shape = {Q.format(0): (16, 16, 600)}
    config = {"r": 600, "use_dora": True, "modules_to_save": ["lm_head"], "base_model_name_or_path": "/a/place"}
    with pytest.raises(InputError) as refused:
        export_adapter(stored(config, shape), Asked("vllm", tmp_path / "out"))
    for reason in ("something is there already", "use_dora", "modules_to_save", "r: got 600", "no name that other"):
        assert reason in str(refused.value), reason
    assert all_bytes(tmp_path) == b"out/mine.txtmine"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"word": "triton"}, "--for: got 'triton'; allowed: peft, vllm, sglang, lorax, ray-serve, gguf"),
        ({"max_rank": 0}, "--max-rank: got 0; allowed: at least 1"),
        ({"base_name": "/somewhere/model"}, "--base-name: got '/somewhere/model', which is no name"),
        ({"base_name": ""}, "--base-name: got '', which is no name"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, asked: dict[str, Any], message: str):
    with pytest.raises(InputError) as refused:
        words = {"word": "vllm", "out": tmp_path / "out", **asked}
        export_adapter(stored({}, {Q.format(0): (8, 8, 4)}), Asked(**words))
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path):
    adapter = stored({"base_model_name_or_path": None}, {Q.format(0): (8, 8, 4)})
    with pytest.raises(InputError, match="does not say what its base is; say it with --base-name"):
        export_adapter(adapter, Asked("peft", tmp_path / "out"))
    assert export_adapter(adapter, Asked("peft", tmp_path / "out", base_name="org/model")).base_model == "org/model"


def test_a_place_that_is_no_folder_of_this_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    adapter = stored({}, {Q.format(0): (8, 8, 4)})
    with pytest.raises(InputError, match="allowed: a folder of this machine"):
        export_adapter(adapter, Asked("vllm", Path("s3://bucket/out")))
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_tool_with_anything_in_it_is_told_at_once():
    odd = {"lora_alpha": "8", "alpha_pattern": ["q_proj"]}
    with pytest.raises(ModelError, match=r"lora_alpha: got '8'; .*alpha_pattern: got \['q_proj'\]; .*with PEFT again"):
        deltas(stored(odd, {Q.format(0): (8, 8, 4)}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_alpha": None}, "lora_alpha: got None; allowed: a finite number"),
        ({"lora_alpha": 10**400}, "lora_alpha: got 1000"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern: got"),
        ({"alpha_pattern": {"q_proj(": 2}}, "no regular expression that can be matched"),
        ({"peft_type": "ADALORA"}, "init_r: got None; allowed: a number above 0"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True. Allowed: "),
    ],
)
def test_numbers_and_patterns_that_are_none_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ModelError) as refused:
        deltas(stored(config, {Q.format(0): (8, 8, 4)}))
    assert message in str(refused.value)


def test_a_layer_without_any_rank_is_refused():
    with pytest.raises(ModelError, match=r"lacks a matrix, .*self_attn\.q_proj\. Copy the folder again"):
        deltas(stored({}, {Q.format(0): (8, 8, 0)}))


def test_a_name_of_the_base_that_is_no_text_is_refused(base: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"base_model_name_or_path in adapter_config\.json .*: got 7\. Allowed: text"):
        saved(adapted(base), tmp_path, base_name=7)


def test_an_empty_folder_is_filled_and_a_place_that_cannot_be_is_refused(tmp_path: Path):
    adapter = stored({}, {Q.format(0): (8, 8, 4)})
    (tmp_path / "empty").mkdir()
    assert len(export_adapter(adapter, Asked("vllm", tmp_path / "empty")).files) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .* cannot be made"):
        export_adapter(adapter, Asked("vllm", tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="something is there already"):
        export_adapter(adapter, Asked("vllm", tmp_path / "file"))


def test_an_alpha_of_0_is_refused():
    """llama.cpp takes it for a scale of 1."""
    with pytest.raises(ModelError, match="lora_alpha: got 0, with which it adds nothing; allowed: another number"):
        deltas(stored({"lora_alpha": 0}, {Q.format(0): (8, 8, 4)}))
