"""What an export writes: the files that PEFT and servers read, lineage, and what is well to know of them.

An adapter and the updates that go out enter; bytes by file name, and sentences, leave. Called by `served_folder`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch

from raylora.adapters.delta import Delta, tensors_of
from raylora.adapters.rerank import Even
from raylora.adapters.serving.asked import BaseName
from raylora.adapters.serving.gguf_file import Layout
from raylora.adapters.serving.servers import Server, cautions, last_name
from raylora.adapters.stored import CONFIG, TENSORS, StoredAdapter
from raylora.model.adapter.peft_format import adapter_config
from raylora.model.adapter.slot import Slot


@dataclass(frozen=True)
class Content:
    """The updates of an export.

    Args:
        found: As they are stored; empty where nobody had to look at them.
        errors: Relative error of each layer's update where a largest rank was asked for, else ``None``.
        even: As they go out; ``None`` where the adapter goes out as it is stored.
        layout: Their places in GGUF, where that is written.
    """

    found: Mapping[str, Delta]
    errors: Mapping[str, float] | None = None
    even: Even | None = None
    layout: Layout | None = None

    @property
    def kinds(self) -> list[str]:
        """Last names of the adapted layers."""
        return sorted({last_name(module) for module in self.found})

    @property
    def rank_error(self) -> dict[str, float] | None:
        """Mean and largest of the relative errors."""
        if self.errors is None:
            return None
        return {"mean": sum(self.errors.values()) / len(self.errors), "max": max(self.errors.values())}


def peft_files(server: Server, adapter: StoredAdapter, base: BaseName, content: Content) -> dict[str, bytes]:
    """Make the two files that PEFT writes.

    Args:
        server: What is to read them.
        adapter: As it is stored.
        base: What the config names.
        content: The updates that go out.

    Returns:
        Bytes by file name.
    """
    even, tensors, config = content.even, dict(adapter.tensors), dict(adapter.config)
    is_lora = config.get("peft_type") == "LORA"
    if even is not None:
        made = adapter_config(Slot(even.r, even.alpha, dropout=0.0, seed=0), content.kinds, (base.name, base.revision))
        # PEFT also reads which layers are meant, however that was said; servers are given names and nothing unknown.
        changed = {field: made[field] for field in ("r", "lora_alpha", "use_rslora", "init_lora_weights")}
        keeps_fields = server.reads_all and is_lora
        config = {**config, **changed, "rank_pattern": {}, "alpha_pattern": {}} if keeps_fields else made
        if not is_lora or any(even.deltas[module] is not delta for module, delta in content.found.items()):
            tensors = tensors_of(even.deltas)
    config |= {"base_model_name_or_path": base.name, "revision": base.revision}
    return {
        TENSORS: safetensors.torch.save(tensors, {"format": "pt"}),
        CONFIG: json.dumps(config, indent=2).encode(),
    }


def lineage_of(adapter: StoredAdapter, base: BaseName, content: Content) -> dict[str, Any]:
    """Where an exported adapter comes from, for its manifest: as the stored one says it, what the export did beside it.

    Args:
        adapter: As it is stored, with a lineage.
        base: What the config names.
        content: The updates that go out.
    """
    told = {**adapter.about, "base_model": base.name, "base_revision": base.revision}
    if content.rank_error is not None and content.rank_error["max"] > 0:
        before = adapter.about.get("rank_errors")
        told["rank_errors"] = [*(before if isinstance(before, list) else []), content.rank_error]
    return told


def warnings_of(adapter: StoredAdapter, server: Server, base: BaseName, content: Content) -> list[str]:
    """Say what is well to know of an export, a sentence each.

    Args:
        adapter: As it is stored.
        server: What is to load it.
        base: What the config names.
        content: The updates that go out.
    """
    told = []
    if not adapter.about:
        told.append(f"{adapter.uri} has no manifest: the card says nothing of data, seed and run")
    if "/" not in base.name:
        told.append(f"base {base.name!r} is no hub id, so others will not find it; say the id with --base-name")
    if adapter.is_of_quantized_base:
        told.append(
            f"it started as LoftQ and belongs to its base held as {adapter.about.get('quantization')}; serve it over "
            f"that, or merge it: raylora merge {adapter.uri} --out FOLDER"
        )
    even, before = content.even, content.found.values()
    if even is None:
        return told
    if (kind := adapter.config.get("peft_type")) != "LORA":
        told.append(f"{kind} goes out as LoRA of rank {even.r}, whose matrices have more values than it trained")
    kept = {delta.r for delta in before if content.errors is None or content.errors[delta.module] == 0}
    if kept - {even.r}:
        told.append(f"ranks from {min(kept)} on were padded with zeros to {even.r}, one rank for all layers")
    if len({delta.scale for delta in before}) > 1:
        told.append("scales that differ between layers went into B; alpha is the rank")
    return told + cautions(server, even.deltas, even.r)
