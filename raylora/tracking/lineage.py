"""Where an adapter comes from: everything that must be equal to get it again.

In come a specification and the digests of what it names, out comes one flat record. It goes to MLflow as tags before
the first step, and into the adapter's manifest with its validation loss. Called by the runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raylora import __version__
from raylora.spec.fields.holding import word_for
from raylora.spec.run import RunSpec

TAG_PREFIX = "raylora."


def lineage(
    spec: RunSpec,
    *,
    run_id: str,
    dtype: str,
    base_name: str,
    base_revision: str | None,
    base_digest: str,
    data_digest: str,
    tokenizer_digest: str,
) -> dict[str, Any]:
    """Return the record of one adapter version.

    Args:
        spec: What was asked.
        run_id: raylora's name of the run.
        dtype: It computed in, ``float32`` or ``bfloat16``, to which a base is cast before it is quantized.
        base_name: Logical name of the base model, such as a hub id; never a path of one machine.
        base_revision: Its commit, where it has one.
        base_digest: Hexadecimal SHA-256 of its files.
        data_digest: Hexadecimal SHA-256 over the content of all data sources; what was made of their rows (split,
            order, weights, truncation) follows from the specification.
        tokenizer_digest: Hexadecimal SHA-256 of the tokenizer as it was loaded, chat template included.
    """
    return {
        "base_model": base_name,
        "base_revision": base_revision,
        "base_digest": base_digest,
        "task_type": spec.task_type,
        "labels": list(spec.labels) or None,
        "quantization": word_for(spec),
        "dtype": dtype,
        **_adapter(spec),
        "data_digest": data_digest,
        "tokenizer_digest": tokenizer_digest,
        "seed": spec.seed,
        "spec_digest": spec.digest,
        "run_id": run_id,
        "raylora": __version__,
    }


def _adapter(spec: RunSpec) -> dict[str, Any]:
    """What trained, without the settings of what did not."""
    if spec.trains_base:
        return {"adapter": spec.adapter, "optimizer": spec.optimizer}
    if spec.peft is not None:
        return {"adapter": "peft", "peft": json.dumps(spec.peft, sort_keys=True)}
    return {
        "adapter": spec.adapter,
        "init_lora_weights": spec.init_lora_weights,
        "lora_r": spec.lora_r,
        "lora_alpha": spec.lora_alpha,
        "lora_target_modules": spec.lora_target_modules,
    }


def lineage_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a record of `lineage` as MLflow tags; what is not known is left out."""
    return {f"{TAG_PREFIX}{name}": _text(value) for name, value in record.items() if value is not None}


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else str(value)
