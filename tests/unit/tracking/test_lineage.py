from __future__ import annotations

import json

import raylora
from raylora.spec.run import RunSpec
from raylora.tracking.lineage import lineage, lineage_tags


def spec(**fields: object) -> RunSpec:
    return RunSpec(**({"base_model": "/models/mine", "datasets": [{"path": "d.jsonl"}]} | fields))


def test_the_record_says_where_an_adapter_comes_from_and_names_no_path():
    asked = spec(seed=7, lora_target_modules=["q_proj", "v_proj"], load_in_4bit=True, init_lora_weights="loftq")
    record = lineage(
        asked,
        run_id="r1",
        dtype="bfloat16",
        base_name="org/model",
        base_revision=None,
        base_digest="b" * 64,
        data_digest="d" * 64,
        tokenizer_digest="t" * 64,
    )
    assert record == json.loads(json.dumps(record)) | {"lora_target_modules": ("q_proj", "v_proj")}
    assert "/models" not in json.dumps(record)
    assert record["spec_digest"] == asked.digest
    assert (record["init_lora_weights"], record["quantization"], record["dtype"]) == ("loftq", "nf4-double", "bfloat16")
    tags = lineage_tags(record | {"eval_loss": 1.25})
    assert tags["raylora.tokenizer_digest"] == "t" * 64
    assert tags["raylora.lora_target_modules"] == "q_proj,v_proj"
    assert tags["raylora.seed"] == "7"
    assert tags["raylora.eval_loss"] == "1.25"
    assert tags["raylora.raylora"] == raylora.__version__
    assert "raylora.base_revision" not in tags


def test_a_base_that_trained_has_no_settings_of_an_adapter():
    digests = {"base_digest": "b" * 64, "data_digest": "d" * 64, "tokenizer_digest": "t" * 64}
    named = {"base_name": "org/model", "base_revision": None}
    record = lineage(spec(adapter="full"), run_id="r1", dtype="float32", **named, **digests)
    assert (record["adapter"], record["optimizer"]) == ("full", "adamw_torch")
    assert not [name for name in record if name.startswith(("lora", "init_lora"))]
