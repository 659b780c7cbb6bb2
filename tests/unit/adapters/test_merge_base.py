"""What an adapter is merged into: the base as it was quantized for LoftQ, with the run's chat template beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raylora.adapters.layers import deltas
from raylora.adapters.merging.check import wanted_logits
from raylora.adapters.merging.rounding import format_of
from raylora.adapters.stored import read_adapter
from raylora.data.tokenizer import load_tokenizer
from raylora.errors import ModelError
from raylora.model.export import publish_adapter
from raylora.model.route import Span
from raylora.store.blob import open_store
from tests.unit.adapters.made_adapters import (
    IDS,
    TARGETS,
    load_model,
    merge,
    publish_again,
    save_adapter,
)
from tests.unit.data.small_tokenizer import PLAIN
from tests.unit.train.tiny_run import build_tiny, save_base, tiny_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("merge") / "adapter")


LOFTQ = {"init_lora_weights": "loftq", "quantization": "nf4-double"}


def test_loftq_is_merged_into_the_base_as_it_was_quantized(tmp_path: Path):
    base = save_base(tmp_path / "base")
    fields = {"init_lora_weights": "loftq", "load_in_4bit": True, "lora_target_modules": TARGETS}
    trainee = build_tiny(tiny_spec(base, tmp_path / "rows.jsonl", **fields))
    uri = publish_adapter(open_store(str(tmp_path / "store")), trainee.bank.export(0), LOFTQ)
    assert merge(uri, base, tmp_path / "out").rounding_error is None
    trainee.train_mode(False)
    trainee.bank.route([Span(0)])
    with torch.no_grad():
        wanted = trainee.model(IDS).logits
        torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, wanted, rtol=0, atol=1e-4)
    stored = read_adapter(uri)
    form = format_of("nf4-double")
    wanted_logits(deltas(stored), base, form).compare(tmp_path / "out").check(is_exact=True)
    plain = publish_adapter(open_store(str(tmp_path / "plain")), trainee.bank.export(0), {"quantization": "nf4-double"})
    merge(plain, base, tmp_path / "over whole")
    with torch.no_grad():
        assert not torch.allclose(load_model(tmp_path / "over whole")(IDS).logits, wanted, atol=1e-2)


def test_loftq_over_nobody_knows_what_is_refused(base: Path, adapter: Path, tmp_path: Path):
    uri = publish_again(adapter, open_store(str(tmp_path / "store")), init_lora_weights="loftq")
    with pytest.raises(ModelError, match="its lineage does not say how that was held"):
        merge(uri, base, tmp_path / "out")


def test_a_chat_template_takes_the_place_of_the_bases(adapter: Path, tmp_path: Path):
    base = save_base(tmp_path / "base")
    told = base / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"chat_template": "{{ 'in the config' }}"}))
    merge(adapter, base, tmp_path / "out", chat_template=PLAIN)
    assert load_tokenizer(tmp_path / "out").chat_template == PLAIN
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert load_tokenizer(base).chat_template != PLAIN
