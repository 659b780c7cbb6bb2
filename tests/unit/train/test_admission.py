"""An adapter that cannot be made fails its own run, and the slots beside it are as if it had never come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.errors import ModelError, RunFailedError
from raylora.spec.run import RunSpec
from raylora.train.admission import start_of
from tests.unit.train.pack_run import admit, assert_same_bits, place_tiny, state_of, train_all
from tests.unit.train.tiny_run import save_base, save_materials, tiny_spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_materials(tmp_path_factory.mktemp("admission"), 20)


def spec_of(home: Path, **fields: object) -> RunSpec:
    return tiny_spec(home / "base", home / "rows.jsonl", val_set_size=4, max_steps=3, **fields)


def test_a_decomposition_that_fails_leaves_the_slot_beside_it_alone(home: Path):
    trainee, quiet = (place_tiny(spec_of(home)) for _ in range(2))
    member, alone = (admit(each, 0, spec_of(home), home) for each in (trainee, quiet))
    weight = trainee.model.get_submodule("model.layers.1.self_attn.q_proj").weight
    kept = weight.clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
        with pytest.raises(ModelError, match=r"init_lora_weights: pissa takes the base's weights apart.*non-finite"):
            trainee.admit(1, spec_of(home, init_lora_weights="pissa"))
        weight.copy_(kept)
    assert list(trainee.steppers) == [0]
    assert all(list(layer.updates) == [0] for layer in trainee.bank._layers.values()), "nothing is left half-made"
    for each, of_slot in ((trainee, member), (quiet, alone)):
        train_all(each, [of_slot])
    assert_same_bits(state_of(trainee, member), state_of(quiet, alone))


def test_bins_are_refused_over_a_base_that_would_mix_their_rows(home: Path, tmp_path: Path):
    """Whatever the run did that the base was placed for: a sweep may bin in some of its trials only."""
    config = save_base(tmp_path / "base") / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mistral"').replace("{", '{"sliding_window": 64,', 1))
    plain = tiny_spec(tmp_path / "base", home / "rows.jsonl", max_steps=2)
    trainee = place_tiny(plain)
    with pytest.raises(ModelError, match=r"^sample_packing: .*sliding_window: 64, below sequence_len: 128.*: false$"):
        trainee.admit(0, plain.model_copy(update={"sample_packing": True}))
    assert not trainee.steppers
    train_all(trainee, [admit(trainee, 0, plain, home)])


def test_memory_that_is_full_is_told_as_the_run_s_failure(home: Path):
    with (
        pytest.raises(RunFailedError, match=r"lora_r: no memory is left for an adapter of rank 4 .*allocat"),
        start_of(spec_of(home)),
    ):
        torch.empty(10**13, 64)


def test_other_errors_are_nobody_s_start(home: Path):
    with pytest.raises(RuntimeError, match=r"^a collective call failed$"), start_of(spec_of(home)):
        raise RuntimeError("a collective call failed")
