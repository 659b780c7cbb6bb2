"""Every strategy on two workers against one process alone: losses, norms, adapters, bytes, moves between strategies."""

from __future__ import annotations

import pytest

from tests.contract.strategy_group import LATE, Seen, run_group
from tests.contract.strategy_specs import HEADS, NORM, PAIRWISE, QUANTIZATIONS, STRATEGIES
from tests.contract.strategy_worker import (
    BACK_ALONE,
    CASES,
    FEW,
    KIND_CASES,
    LOADED,
    MOVES,
    PEFT_CASES,
    PEFT_UNDER,
    SHARDING,
    go_on_alone,
    see_alone,
)
from tests.unit.train.tiny_audio import save_recordings
from tests.unit.train.tiny_heads import save_home
from tests.unit.train.tiny_images import save_images
from tests.unit.train.tiny_run import save_base, write_chats, write_pairs, write_rated, write_weighted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12}
WIDE_BLOCK_BYTES = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
"""One block of the wide base before it is packed: queries and output, keys and values, three of the MLP."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("strategies")
    save_base(folder / "base", num_hidden_layers=2)
    save_base(folder / "wide", **WIDE)
    write_chats(folder / "rows.jsonl", 90)
    write_pairs(folder / "pairs.jsonl", 60)
    write_rated(folder / "rated.jsonl", 60)
    write_weighted(folder / "weighted.jsonl", 60, (0, 0.1, 0.5, None))
    save_home(folder / "heads", num_rows=90)
    (folder / "files").mkdir()
    save_images(folder / "files", num_rows=90)
    save_recordings(folder / "files", num_rows=90)
    see_alone(folder)
    last_words = run_group(folder, late=LATE)
    go_on_alone(folder)
    return Seen(folder, last_words)


@pytest.mark.parametrize(("strategy", "quantization"), CASES)
class TestTenSteps:
    def test_losses_and_norms_are_those_of_one_process(self, seen: Seen, strategy: str, quantization: str):
        together, alone = seen[f"{strategy}-{quantization}"], seen[f"alone-{quantization}"]
        assert together["num_tokens"] == alone["num_tokens"]
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        assert together["eval_before"] == pytest.approx(alone["eval_before"], abs=1e-4)
        assert together["eval_after"] == pytest.approx(alone["eval_after"], abs=1e-4)
        assert together["eval_after"] < together["eval_before"] - 0.2

    def test_the_adapter_is_that_of_one_process(self, seen: Seen, strategy: str, quantization: str):
        together, alone = seen[f"{strategy}-{quantization}"], seen[f"alone-{quantization}"]
        assert len(set(together["adapter_digests"])) == 1
        assert together["adapter"].keys() == alone["adapter"].keys()
        for name, values in alone["adapter"].items():
            assert together["adapter"][name] == pytest.approx(values, abs=1e-4), name
        assert together["answers"] == alone["answers"] * 2

    def test_the_base_stays_as_it_was(self, seen: Seen, strategy: str, quantization: str):
        together = seen[f"{strategy}-{quantization}"]
        assert together["base_before"] == together["base_after"] == seen[f"alone-{quantization}"]["base_before"]

    def test_each_rank_holds_its_share(self, seen: Seen, strategy: str, quantization: str):
        """After loading, between steps and after an evaluation alike."""
        (whole,) = seen[f"alone-{quantization}"]["held_bytes"][0]
        share = whole / 2 if strategy in SHARDING else whole
        for held in seen[f"{strategy}-{quantization}"]["held_bytes"]:
            assert sum(held) >= whole
            assert held == pytest.approx([share, share], rel=0.01)


def test_each_quantization_is_another_base(seen: Seen):
    assert len({seen[f"alone-{quantization}"]["base_before"] for quantization in QUANTIZATIONS}) == len(QUANTIZATIONS)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_clipping_was_put_to_the_test(seen: Seen, quantization: str):
    norms = seen[f"alone-{quantization}"]["grad_norm"]
    assert min(norms) < NORM < max(norms)


@pytest.mark.parametrize("run", ["ddp-dropout", *(f"{strategy}-recomputed" for strategy in STRATEGIES)])
def test_dropout_is_that_of_one_process(seen: Seen, run: str):
    """Rows keep their masks on whichever rank, whether activations are kept or masks drawn again to recompute them."""
    assert seen[run] == pytest.approx(seen["alone-dropout"], abs=1e-5)


@pytest.mark.parametrize("rl", PAIRWISE)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pairs_are_learned_as_in_one_process(seen: Seen, strategy: str, rl: str):
    """The reference is the base without the adapter, in passes of their own; ORPO has none."""
    assert seen[f"{strategy}-{rl}"] == pytest.approx(seen[f"alone-{rl}"], abs=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rated_answers_are_learned_as_in_one_process(seen: Seen, strategy: str):
    """All ranks measure from one reference point, which is not 0 once something was learned."""
    together, alone = seen[f"{strategy}-rated"], seen["alone-rated"]
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert together["kl"] == pytest.approx(alone["kl"], abs=1e-3)
    assert alone["kl"][0] == 0.0 and max(alone["kl"]) > 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_of_messages_are_summed_over_ranks(seen: Seen, strategy: str):
    together, alone = seen[f"{strategy}-weighted"], seen["alone-weighted"]
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert together["token_accuracy"] == pytest.approx(alone["token_accuracy"], abs=1e-4)


@pytest.mark.parametrize(("strategy", "kind"), KIND_CASES)
def test_a_kind_of_adapter_is_trained_as_in_one_process(seen: Seen, strategy: str, kind: str):
    alone = seen[f"alone-{kind}"]
    assert seen[f"{strategy}-{kind}"] == pytest.approx(alone, abs=1e-4)
    assert alone != pytest.approx(seen["alone-nf4"]["loss"][: len(alone)], abs=1e-4), "that of plain LoRA"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_head_is_trained_as_in_one_process(seen: Seen, strategy: str, head: str):
    """Of a text, of its words and of pairs of them, over decoders and encoders; of images, of recordings."""
    assert seen[f"{strategy}-{head}"] == pytest.approx(seen[f"alone-{head}"], abs=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_start_from_rows_is_that_of_one_process(seen: Seen, strategy: str):
    """Each rank looks at its part of them, and all come to one adapter."""
    together, alone = seen[f"{strategy}-eva"], seen["alone-eva"]
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert together["num_adapters"] == 1


@pytest.mark.parametrize("strategy", PEFT_UNDER)
def test_pefts_bank_trains_under_it(seen: Seen, strategy: str):
    first, again = seen[f"{strategy}-peft"]
    assert first == pytest.approx(seen["alone-peft"], abs=1e-4)
    assert again == first


@pytest.mark.parametrize(("strategy", "kind"), PEFT_CASES)
def test_a_kind_in_pefts_bank_is_trained_as_in_one_process(seen: Seen, strategy: str, kind: str):
    alone = seen[f"alone-peft-{kind}"]
    assert seen[f"{strategy}-peft-{kind}"] == pytest.approx(alone, abs=1e-4)
    assert alone != pytest.approx(seen["alone-peft"], abs=1e-4), "that of plain LoRA"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_updated_on_a_gradient_that_is_not_finite(seen: Seen, strategy: str):
    assert seen[f"{strategy}-infinite"]["norm"] in ("inf", "nan")
    assert seen[f"{strategy}-infinite"]["is_unchanged"]


@pytest.mark.parametrize(("start", "end"), [*MOVES, *BACK_ALONE])
def test_a_run_goes_on_under_another_strategy_and_with_more_or_fewer_workers(seen: Seen, start: str, end: str):
    whole, moved = seen[f"{start}-nf4"], seen[f"{start}-to-{end}"]
    assert moved["loss"] == pytest.approx(whole["loss"][5:], abs=1e-4)
    if start == end:
        assert moved["loss"] == whole["loss"][5:]
        assert moved["adapter_digest"] == whole["adapter_digests"][0]


@pytest.mark.parametrize("strategy", FEW)
def test_a_run_goes_on_with_the_bits_of_its_moments_in_8_bits(seen: Seen, strategy: str):
    whole, again, plain = (seen[f"{strategy}-{name}"] for name in ("8bit", "8bit-again", "nf4"))
    assert again["loss"] == whole["loss"][5:]
    assert {again["adapter_digest"]} == set(whole["adapter_digests"])
    assert whole["loss"] == pytest.approx(plain["loss"], abs=0.05)
    assert whole["adapter_digests"] != plain["adapter_digests"], "moments were rounded"


@pytest.mark.parametrize(("strategy", "quantization"), LOADED)
def test_loading_takes_a_share_and_a_block(seen: Seen, strategy: str, quantization: str):
    """Of a base of 12 blocks: never near a whole copy in full precision."""
    found = seen[f"{strategy}-{quantization}-memory"]
    for peak, held in zip(found["peak_bytes"], found["held_bytes"], strict=True):
        assert peak < held + 4 * WIDE_BLOCK_BYTES


@pytest.mark.parametrize(("strategy", "quantization"), [case for case in LOADED if case[0] in SHARDING])
def test_a_step_gathers_two_blocks(seen: Seen, strategy: str, quantization: str):
    """Of 12: the one that runs and the next, half of one for the parameter that crosses the limit, and the root."""
    found = seen[f"{strategy}-{quantization}-gathered"]
    shares = seen[f"{strategy}-{quantization}-memory"]["held_bytes"]
    assert found["held_bytes"] == shares
    assert found["num_looks_for_garbage"] == 0
    for most, share in zip(found["most_bytes"], shares, strict=True):
        assert share < most < share + 2.5 * found["block_bytes"] + found["root_bytes"]
