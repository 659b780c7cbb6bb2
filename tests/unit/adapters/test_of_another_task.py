"""An adapter with a head is told so by whatever works with layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylora.adapters.base import BasePlace
from raylora.adapters.layers import deltas
from raylora.adapters.one_base import open_one_base
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.stored import StoredAdapter
from raylora.errors import ModelError


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS"])
def test_an_adapter_with_a_head_is_refused_by_its_task(task: str):
    tensors = {"base_model.model.score.weight": torch.zeros(2, 4)}
    config = {"peft_type": "LORA", "task_type": task, "modules_to_save": ["score"], "r": 2, "lora_alpha": 4}
    with pytest.raises(ModelError, match=f"was trained for {task}, with a head beside it. Allowed here: CAUSAL_LM"):
        deltas(StoredAdapter("somewhere", tensors, config, {}))


def test_one_for_encoder_and_decoder_is_refused_by_its_task(tmp_path: Path):
    """Before a base is looked for, which none of the commands for decoders would take."""
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q."
    tensors = {f"{name}lora_A.weight": torch.ones(2, 4), f"{name}lora_B.weight": torch.ones(4, 2)}
    config = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 2, "lora_alpha": 4}
    with pytest.raises(ModelError, match=r"was trained for SEQ_2_SEQ_LM\. Allowed here: CAUSAL_LM"):
        deltas(StoredAdapter("somewhere", tensors, config, {}))
    with pytest.raises(ModelError, match=r"adapter: somewhere was trained for SEQ_2_SEQ_LM\. Allowed here: CAUSAL_LM"):
        open_one_base({"to": StoredAdapter("somewhere", tensors, config, {})}, BasePlace("nowhere/at-all"), tmp_path)


def test_its_card_names_the_class_for_its_task(tmp_path: Path):
    tensors = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(4, 2),
        "base_model.model.classifier.dense.weight": torch.ones(4, 4),
        "base_model.model.classifier.out_proj.weight": torch.ones(3, 4),
    }
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "modules_to_save": ["classifier"], "r": 2, "lora_alpha": 4}
    config["base_model_name_or_path"] = "tiny/roberta"
    export_adapter(
        StoredAdapter("somewhere", tensors, config, {"base_model": "tiny/roberta"}), Asked("peft", tmp_path / "out")
    )
    told = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained('tiny/roberta', num_labels=3)" in told


@pytest.mark.parametrize("server", ["vllm", "gguf"])
def test_servers_of_decoders_take_none_for_encoder_and_decoder(server: str, tmp_path: Path):
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q."
    tensors = {f"{name}lora_A.weight": torch.ones(2, 4), f"{name}lora_B.weight": torch.ones(4, 2)}
    config = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    stored = StoredAdapter("somewhere", tensors, config | {"base_model_name_or_path": "tiny/t5"}, {})
    with pytest.raises(ModelError, match=r"was trained for SEQ_2_SEQ_LM"):
        export_adapter(stored, Asked(server, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export_adapter(stored, Asked("peft", tmp_path / "out"))
    told = (tmp_path / "out" / "README.md").read_text()
    assert "PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained('tiny/t5')" in told
