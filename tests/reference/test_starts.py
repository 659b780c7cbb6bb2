"""LoftQ and EVA beside dense decompositions, and what they train to beside PEFT's LoRA from the same matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from raylora.data.collate import Batch
from raylora.model.adapter.bank import Adapter
from raylora.model.adapter.peft_format import tensor_name
from raylora.model.adapter.slot import slot_of
from raylora.model.export import adapter_files
from raylora.model.rows.route import Span
from raylora.spec.run import RunSpec
from raylora.train.build import build
from raylora.train.eva import start_from_inputs
from raylora.train.member import Member
from raylora.train.trainee import Trainee
from tests.reference.naive_lora import base_of, train_plainly
from tests.reference.tiny_lora import ADAMW, NF4, RATES, spec_of, steps_of
from tests.unit.data.small_tokenizer import small_tokenizer
from tests.unit.train.pack_run import Silent
from tests.unit.train.tiny_run import BASE_NAME, CPU, open_rows, save_materials, solo_step

pytestmark = pytest.mark.slow

INT8 = {"load_in_8bit": True}
LOFTQ, EVA = {"init_lora_weights": "loftq"}, {"init_lora_weights": "eva"}
STARTS: dict[str, dict[str, Any]] = {
    "loftq-nf4": {**LOFTQ, **NF4},
    "loftq-int8-rslora": {**LOFTQ, **INT8, "use_rslora": True},
    "eva-plain": EVA,
    "eva-nf4-rslora": {**EVA, **NF4, "use_rslora": True},
    "eva-int8": {**EVA, **INT8},
}
IDS = torch.tensor([[5, 80, 33, 200, 17, 6, 90, 41]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the base one whose rows go in as padded lines."""
    home = save_materials(tmp_path_factory.mktemp("starts"), 60, num_hidden_layers=2)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "sliding_window": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    window = MistralConfig(vocab_size=len(small_tokenizer()), **shape, **heads)
    MistralForCausalLM(window).save_pretrained(home / "window")
    small_tokenizer().save_pretrained(home / "window")
    return home


def started(spec: RunSpec, home: Path) -> tuple[Trainee, Adapter, Sequence[Batch]]:
    """A run before its first step, its adapter, and the rows that it started from."""
    rows, _ = open_rows(spec, home / "cache")
    trainee = build(spec, Path(spec.base_model), BASE_NAME, CPU)
    seen = Member(trainee, 0, spec, rows, None, Silent(), {}).share().start_rows
    start_from_inputs(trainee, {0: seen}, len(seen))
    return trainee, trainee.bank.export(0), seen


def matrices(adapter: Adapter, name: str) -> tuple[Tensor, Tensor]:
    """A and B of a layer in float64."""
    a_RI, b_OR = (adapter.tensors[tensor_name(name, matrix)].double() for matrix in ("lora_A", "lora_B"))
    return a_RI, b_OR


@pytest.mark.parametrize("kind", [kind for kind in STARTS if kind.startswith("loftq")])
def test_loftq_gives_back_the_best_of_its_rank(home: Path, kind: str):
    spec = spec_of(home, **STARTS[kind])
    _, start, _ = started(spec, home)
    plain, held = LlamaForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32), base_of(spec)
    assert len(start.layers) == 2 * 7
    for name in start.layers:
        weight_OI, held_OI = (model.get_submodule(name).weight.detach().double() for model in (plain, held))
        u_OK, s_K, vh_KI = torch.linalg.svd(weight_OI - held_OI, full_matrices=False)
        best_OI = (u_OK[:, : spec.lora_r] * s_K[: spec.lora_r]) @ vh_KI[: spec.lora_r]
        a_RI, b_OR = matrices(start, name)
        torch.testing.assert_close(slot_of(spec).scale * b_OR @ a_RI, best_OI, rtol=0, atol=1e-5)
        assert best_OI.abs().max() > 1e-4


@pytest.mark.parametrize("rank", [8, 24])
def test_loftq_starts_closer_to_the_base_in_full_precision(home: Path, rank: int):
    spec = spec_of(home, **LOFTQ, **NF4, lora_r=rank)
    trainee, *_ = started(spec, home)
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    with torch.no_grad():
        full = LlamaForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32)(IDS).logits
        started_off, quantized_off = ((model(IDS).logits - full).norm() for model in (trainee.model, base_of(spec)))
    assert 0 < started_off < quantized_off


@pytest.mark.parametrize("kind", STARTS)
def test_ten_steps_are_those_of_pefts_lora_from_the_same_matrices(home: Path, kind: str):
    spec = spec_of(home, **STARTS[kind])
    trainee, start, _ = started(spec, home)
    steps = steps_of(spec, home)
    results = [solo_step(trainee, steps[step], step, rate) for step, rate in enumerate(RATES)]
    config = LoraConfig(
        r=spec.lora_r, lora_alpha=spec.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM",
        use_rslora=spec.use_rslora,
    )  # fmt: skip
    model = get_peft_model(base_of(spec), config)
    set_peft_model_state_dict(model, start.tensors)
    losses, norms = train_plainly(model, steps, RATES, ADAMW, spec.max_grad_norm)
    assert [result.loss for result in results] == pytest.approx(losses, abs=1e-5)
    assert [result.grad_norm for result in results] == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("kind", STARTS)
def test_pefts_loader_gives_the_same_output_on_the_base_as_it_is(home: Path, kind: str, tmp_path: Path):
    spec = spec_of(home, **STARTS[kind])
    trainee, *_ = started(spec, home)
    for step, batches in enumerate(steps_of(spec, home)[:4]):
        solo_step(trainee, batches, step, 5e-3)
    adapter = trainee.bank.export(0)
    assert (adapter.config["init_lora_weights"], adapter.config["r"]) == (True, spec.lora_r)
    for name, content in adapter_files(adapter).items():
        (tmp_path / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base_of(spec), tmp_path)
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    with torch.no_grad():
        torch.testing.assert_close(trainee.model(IDS).logits, loaded(IDS).logits, rtol=0, atol=2e-5)
        assert not torch.allclose(loaded(IDS).logits, base_of(spec)(IDS).logits, atol=1e-2)


def inputs_of(model: nn.Module, batches: Sequence[Batch], names: Sequence[str]) -> dict[str, Tensor]:
    """What comes to layers of transformers' model for the tokens of some batches, in float64."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def note(name: str, is_token_BT: Tensor, layer: nn.Module, args: tuple[Tensor]) -> None:
        seen[name].append(args[0][is_token_BT].double())

    for batch in batches:
        is_token_BT = batch.segment_ids_BT > 0
        layers = {name: model.get_submodule(name) for name in names}
        hooks = [each.register_forward_pre_hook(partial(note, name, is_token_BT)) for name, each in layers.items()]
        with torch.no_grad():
            model(input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT)
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize(
    ("base", "fields", "rank"),
    [("base", {}, 28), ("base", {**NF4, "use_dora": True}, 28), ("window", {}, 12)],
    ids=["plain", "nf4-dora", "padded"],
)
def test_evas_directions_are_the_right_singular_vectors_of_the_inputs(
    home: Path, base: str, fields: dict[str, object], rank: int
):
    """At ranks at which a sketch of these layers is whole."""
    targets = ["q_proj", "o_proj", "up_proj"]
    spec = spec_of(home, base_model=str(home / base), **EVA, lora_r=rank, lora_target_modules=targets, **fields)
    trainee, start, seen = started(spec, home)
    assert len(seen) == 4 * spec.gradient_accumulation_steps
    assert any((batch.segment_ids_BT == 0).any() for batch in seen)
    assert (trainee.why_padded is None) == (base == "base")
    model = base_of(spec) if base == "base" else AutoModelForCausalLM.from_pretrained(home / base, dtype=torch.float32)
    for name, x_NI in inputs_of(model, seen, list(start.layers)).items():
        a_RI, b_OR = matrices(start, name)
        assert not b_OR.any()
        _, s_K, vh_KI = torch.linalg.svd(x_NI, full_matrices=False)
        rank_found = min(rank, int(torch.linalg.matrix_rank(x_NI)))  # the first layer sees each word alike
        found_RI, best_RI = a_RI[:rank_found], vh_KI[:rank_found]
        torch.testing.assert_close(found_RI @ found_RI.t(), torch.eye(rank_found).double(), rtol=0, atol=1e-5)
        assert torch.linalg.svdvals(found_RI @ best_RI.t()).min() > 1 - 1e-5  # cosines of the angles between the two
        torch.testing.assert_close((x_NI @ found_RI.t()).norm(dim=0), s_K[:rank_found], rtol=1e-3, atol=0)


def test_a_narrow_sketch_finds_most_of_what_there_is(home: Path):
    spec = spec_of(home, **EVA, lora_r=4)
    _, start, seen = started(spec, home)
    for name, x_NI in inputs_of(base_of(spec), seen, list(start.layers)).items():
        a_RI, _ = matrices(start, name)
        most = torch.linalg.svdvals(x_NI)[:4].square().sum()
        assert (x_NI @ a_RI.t()).square().sum() > 0.85 * most
