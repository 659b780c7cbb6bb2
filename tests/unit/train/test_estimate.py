"""Counts that others published, parts that must add up, and what changes when a run changes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import BertConfig, CTRLConfig, LlamaConfig, OPTConfig, PretrainedConfig

from raylora.errors import ModelError
from raylora.model.base.meta import meta_model
from raylora.model.inspect import inspect_targets
from raylora.spec.run import RunSpec
from raylora.train.prediction.estimate import Estimate, RankBytes, estimate

SMALL = LlamaConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
)
GB = 10**9


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({"base_model": "base", "datasets": [{"path": "rows"}], "sequence_len": 32} | fields)


def predicted(config: PretrainedConfig = SMALL, **fields: Any) -> Estimate:
    """On any machine: a CPU with bfloat16 units would compute in that."""
    return estimate(spec(**{"dtype": "float32"} | fields), config, device="cpu")


def rank(config: PretrainedConfig = SMALL, **fields: Any) -> RankBytes:
    return predicted(config, **fields).ranks[0]


def llama(hidden: int, intermediate: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        vocab_size=32000, tie_word_embeddings=False,
    )  # fmt: skip


def test_one_matrix_of_4096_by_4096_trains_131072_values() -> None:
    found = predicted(llama(4096, 64, 1, 32), lora_r=16, lora_target_modules=["q_proj"], sequence_len=8)
    assert found.trainable_parameters == 131_072


@pytest.mark.slow
@pytest.mark.parametrize(("r", "trainable"), [(1, 4_718_592), (8, 37_748_736)])
def test_gpt3_175b_trains_what_the_lora_paper_counts(r: int, trainable: int) -> None:
    """LoRA, table 4: 4.7M and 37.7M of 175,255.8M. OPT-175B has GPT-3's shape in layers that are linear."""
    gpt3 = OPTConfig(
        hidden_size=12288, ffn_dim=49152, num_hidden_layers=96, num_attention_heads=96, vocab_size=50257,
        word_embed_proj_dim=12288,
    )  # fmt: skip
    found = estimate(spec(lora_r=r, lora_target_modules=["q_proj", "v_proj"], sequence_len=8), gpt3, "cuda")
    assert found.trainable_parameters == trainable
    assert found.base_parameters == pytest.approx(175_255.8e6, rel=0.005)
    if r == 1:
        assert found.base_parameters / found.trainable_parameters > 10_000


def test_a_7b_llama_on_q_and_v_trains_what_peft_prints() -> None:
    """PEFT: trainable params: 4,194,304 || all params: 6,742,609,920."""
    found = predicted(llama(4096, 11008, 32, 32), lora_r=8, lora_target_modules=["q_proj", "v_proj"], sequence_len=8)
    assert found.trainable_parameters == 4_194_304
    assert found.base_parameters + found.trainable_parameters == 6_742_609_920


@pytest.mark.slow
def test_65b_in_nf4_fits_one_gpu_of_48_gb_and_in_16_bits_does_not() -> None:
    """QLoRA's claim, with its settings: r=64 on all linear layers, paged 8-bit AdamW, gradient checkpointing.

    In 16 bits not even with far smaller adapters, which take half the time to count.
    """
    llama_65b = llama(8192, 22016, 80, 64)
    asked: dict[str, Any] = {
        "lora_r": 64,
        "gradient_checkpointing": True,
        "optimizer": "paged_adamw_8bit",
        "sequence_len": 512,
    }
    quantized = estimate(spec(load_in_4bit=True, **asked), llama_65b, "cuda")
    assert quantized.base_parameters == pytest.approx(65.3e9, rel=0.001)
    assert quantized.fits(48 * GB)
    smaller = asked | {"lora_target_modules": ["q_proj"]}
    assert not estimate(spec(**smaller), llama_65b, "cuda").fits(48 * GB)


def test_adapters_gradients_and_moments_are_counted_at_their_own_rank() -> None:
    found = rank(lora_r=5, lora_target_modules=["q_proj"])
    values = 3 * 5 * (64 + 64)
    assert predicted(lora_r=5, lora_target_modules=["q_proj"]).trainable_parameters == values
    assert (found.adapters_bytes, found.gradients_bytes, found.optimizer_bytes) == (4 * values, 4 * values, 8 * values)


def test_every_kind_is_counted() -> None:
    """DoRA trains a value a row beside the matrices, AdaLoRA one a rank; what starts from the base holds its start."""
    fields: dict[str, Any] = {"lora_r": 5, "lora_target_modules": ["q_proj", "k_proj"]}
    matrices, rows = 3 * 5 * (64 + 64 + 64 + 32), 3 * (64 + 32)
    for kind, num_trained, num_beside in (
        ({"use_dora": True}, matrices + rows, rows),
        ({"init_lora_weights": "pissa"}, matrices, matrices),
        ({"init_lora_weights": "olora"}, matrices, matrices),
        ({"use_rslora": True, "loraplus_lr_ratio": 4, "init_lora_weights": "gaussian"}, matrices, 0),
        ({"init_lora_weights": "eva"}, matrices, 0),
        ({"init_lora_weights": "loftq", "load_in_4bit": True}, matrices, 0),
    ):
        found = predicted(**fields, **kind)
        assert found.trainable_parameters == num_trained
        seen = inspect_targets(meta_model(SMALL, torch.float32), spec(**fields, **kind))
        assert seen.trainable_parameters == num_trained
        assert found.ranks[0].adapters_bytes == 4 * (num_trained + num_beside)
        assert found.ranks[0].optimizer_bytes == 8 * num_trained
    adalora = {"adapter": "adalora", "target_r": 2}
    found, num_trained = predicted(**fields, **adalora), matrices + 3 * 5 * 2
    assert found.trainable_parameters == num_trained
    seen = inspect_targets(meta_model(SMALL, torch.float32), spec(**fields, **adalora))
    assert seen.trainable_parameters == num_trained
    assert found.ranks[0].adapters_bytes == 3 * 4 * num_trained, "with the two means of each value's importance"
    assert found.ranks[0].optimizer_bytes == 8 * num_trained
    peft = predicted(**fields, adapter_bank="peft", use_dora=True)
    assert peft.trainable_parameters == matrices + rows


def test_shards_of_all_ranks_make_the_whole() -> None:
    whole = rank(load_in_4bit=True)
    for strategy in ("fsdp", "deepspeed"):
        found = predicted(load_in_4bit=True, distributed={"strategy": strategy, "num_workers": 3})
        assert 0 <= sum(each.base_bytes for each in found.ranks) - whole.base_bytes < 4 * 3 * 60  # padding
        assert sum(each.quant_state_bytes for each in found.ranks) == whole.quant_state_bytes
        assert max(each.base_bytes for each in found.ranks) < whole.base_bytes / 2
    assert whole.quant_state_bytes > 0 == rank().quant_state_bytes


def test_zero_1_and_2_share_out_the_optimizer() -> None:
    alone, shared = rank(), rank(distributed={"strategy": "deepspeed", "zero_stage": 2, "num_workers": 4})
    assert shared.optimizer_bytes == alone.optimizer_bytes * 3 // 8  # two moments and a copy, a quarter of each
    assert shared.base_bytes == alone.base_bytes


def test_what_grows_with_what() -> None:
    plain = rank()
    assert rank(gradient_checkpointing=True).activations_bytes < plain.activations_bytes
    assert rank(micro_batch_size=2).activations_bytes > 1.9 * plain.activations_bytes
    assert rank(sample_packing=True).activations_bytes == plain.activations_bytes  # rows without a mask
    assert rank(lora_dropout=0.1).activations_bytes > plain.activations_bytes
    assert rank(load_in_4bit=True).base_bytes < plain.base_bytes / 2


def test_both_banks_are_counted() -> None:
    packed, peft = predicted(), predicted(adapter_bank="peft")
    assert packed.trainable_parameters == peft.trainable_parameters
    assert packed.base_parameters == peft.base_parameters


def test_an_adapter_of_pefts_own_is_counted_with_what_it_does_not_train() -> None:
    targets = ["k_proj", "down_proj"]
    loha = {"peft_type": "LOHA", "r": 4, "target_modules": targets}
    hadamard = 3 * 2 * 4 * (32 + 64 + 64 + 96)  # of three blocks, two pairs of matrices for each layer
    found = predicted(peft=loha)
    assert found.trainable_parameters == hadamard
    assert found.base_parameters == predicted().base_parameters
    assert found.ranks[0].adapters_bytes == 4 * hadamard
    assert inspect_targets(meta_model(SMALL, torch.float32), spec(peft=loha)).trainable_parameters == hadamard
    vera = {"peft_type": "VERA", "r": 16, "target_modules": targets}
    found = predicted(peft=vera)
    assert found.trainable_parameters == 3 * (32 + 64 + 2 * 16)
    assert found.ranks[0].adapters_bytes == 4 * (found.trainable_parameters + 16 * (64 + 96))
    shared = {"peft_type": "VBLORA", "r": 4, "num_vectors": 8, "vector_length": 16, "target_modules": targets}
    norms = {"peft_type": "LN_TUNING"}
    for block, num_beside in ((shared, 0), (norms, (2 * 3 + 1) * 64)):
        seen = inspect_targets(meta_model(SMALL, torch.float32), spec(peft=block))
        assert seen.num_beside == num_beside
    assert predicted(peft=norms).trainable_parameters == seen.trainable_parameters
    with pytest.raises(ModelError, match="cannot be run without data"):  # PEFT looks for infinite values in it
        predicted(peft=shared)


def test_it_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    predicted(adapter_bank="peft", lora_dropout=0.1)
    assert torch.equal(before, torch.get_rng_state())


def test_json_carries_the_parts_of_every_rank() -> None:
    told = predicted(distributed={"strategy": "fsdp", "num_workers": 2}).to_json()
    assert told["strategy"] == "fsdp" and len(told["ranks"]) == 2
    assert told["peak_bytes"] == max(each["peak_bytes"] for each in told["ranks"])


def test_gradient_checkpointing_is_asked_for_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        predicted(gradient_checkpointing=True)


def test_gradient_checkpointing_that_a_base_cannot_do_is_refused() -> None:
    config = CTRLConfig(n_embd=32, n_layer=2, n_head=2, dff=48, vocab_size=64)
    with pytest.raises(ModelError, match=r"CTRLLMHeadModel cannot do it.*gradient_checkpointing: false"):
        predicted(config, gradient_checkpointing=True)


def test_an_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="is_decoder: false"):
        predicted(BertConfig(architectures=["BertLMHeadModel"]))


def test_a_target_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="q_prj"):
        predicted(lora_target_modules=["q_prj"])
