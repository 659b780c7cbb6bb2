"""What each server loads, as data, and what it would reject or read wrongly of an adapter.

An adapter's config, its layers and its rank enter; sentences leave, each with the way out. Called by `served_folder`.

Source: the servers' documentation and code as docs/serving.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raylora.adapters.stored import StoredAdapter
from raylora.model.adapter.peft_format import MAGNITUDE

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be."""

LORAX_KERNEL_RANK = 128
"""Largest rank that LoRAX has kernels for; above, it multiplies adapter by adapter."""

LORAX_LAYERS = frozenset({
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
    *("dense", "fc1", "fc2", "lm_head", "c_attn", "c_proj", "c_fc", "w1", "w2", "Wqkv", "out_proj"),
    *("query_key_value", "dense_h_to_4h", "dense_4h_to_h"),
})  # fmt: skip
"""Names of layers that LoRAX adapts in one architecture or another; it leaves others out and only logs it."""

SGLANG_LAYERS = frozenset({
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
    *("q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj", "wq_b", "wk", "weights_proj", "qkvr", "wo_ud"),
    *("embed_tokens", "lm_head"),
})  # fmt: skip
"""What SGLang's ``--lora-target-modules`` may name; of others it has shapes for few architectures."""

UNREAD = (
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "lora_bias",
    "alora_invocation_tokens",
)
"""Fields of PEFT's config that ask for more than A and B on linear layers."""

_BLOCK = re.compile(r"(?P<before>.*?)\.(?P<block>\d+)\.(?P<kind>.+)")


@dataclass(frozen=True)
class Server:
    """What loads an adapter.

    Args:
        title: What people call it.
        reads_all: Whether it reads whatever PEFT writes; what does not takes one rank and alpha for all layers.
        ranks: What its setting for the largest rank may be; empty where that is any number.
        wants_all_blocks: Whether it takes up a kind of layer only where each block has one.
        layers: Last names of the layers that it knows; empty where nobody can say.
        of_others: What it does with others.
        kernel_rank: Largest rank that it has kernels for; ``None`` where that is any.
    """

    title: str
    reads_all: bool = False
    ranks: tuple[int, ...] = ()
    wants_all_blocks: bool = False
    layers: frozenset[str] = frozenset()
    of_others: str = ""
    kernel_rank: int | None = None


SERVERS: Mapping[str, Server] = {
    "peft": Server("PEFT", reads_all=True),
    "vllm": Server("vLLM", ranks=VLLM_RANKS),
    "sglang": Server(
        "SGLang",
        layers=SGLANG_LAYERS,
        of_others="adapts layers of other names than its own in a few architectures, and does not start with the rest",
    ),
    "lorax": Server(
        "LoRAX",
        wants_all_blocks=True,
        layers=LORAX_LAYERS,
        of_others="leaves out layers of a name that it does not know",
        kernel_rank=LORAX_KERNEL_RANK,
    ),
    "ray-serve": Server("Ray Serve LLM", ranks=VLLM_RANKS),
    "gguf": Server("llama.cpp"),
}


def refused_kinds(server: Server, adapter: StoredAdapter) -> list[str]:
    """Say what a server cannot load of an adapter's kind.

    Args:
        server: Where it is to be loaded.
        adapter: Its config and the names of its tensors count.
    """
    if server.reads_all:
        return []
    config, way_out = adapter.config, f"Merge it: raylora merge {adapter.uri} --out FOLDER"
    problems = []
    if is_dora(adapter):
        problems.append(f"use_dora: {server.title} loads no DoRA adapter. {way_out}")
    for field in UNREAD:
        if config.get(field):
            problems.append(
                f"{field}: got {_short(config[field])}; {server.title} loads A and B of linear layers alone. "
                "Merge it with PEFT"
            )
    return problems


def is_dora(adapter: StoredAdapter) -> bool:
    """Whether an adapter has magnitudes beside its matrices."""
    return bool(adapter.config.get("use_dora")) or any(MAGNITUDE in name for name in adapter.tensors)


def refused_layers(server: Server, modules: Iterable[str], r: int) -> list[str]:
    """Say what a server cannot load of an adapter's layers and rank.

    Args:
        server: Where it is to be loaded.
        modules: Dotted names of the adapted layers.
        r: Largest rank of them, as it would be written.
    """
    problems = []
    if server.ranks and r > server.ranks[-1]:
        problems.append(
            f"r: got {r}; the largest --max-lora-rank of {server.title} is {server.ranks[-1]}. Take its nearest update "
            f"of that rank: --max-rank {server.ranks[-1]}"
        )
    if server.wants_all_blocks and (partial := _partial_kinds(modules)):
        problems.append(
            f"lora_target_modules: {server.title} takes up a kind of layer only where each block has one; not each has "
            f"{', '.join(partial[:5])}. Train with names that hold for every block, such as [q_proj], or merge it"
        )
    return problems


def cautions(server: Server, modules: Iterable[str], r: int) -> list[str]:
    """Say what a server loads, and not as one might expect.

    Args:
        server: Where it is to be loaded.
        modules: Dotted names of the adapted layers.
        r: Rank as it is written.
    """
    unknown = sorted({last_name(module) for module in modules} - server.layers) if server.layers else []
    told = [f"{server.title} {server.of_others}: {', '.join(unknown)}"] if unknown else []
    if server.kernel_rank is not None and r > server.kernel_rank:
        has = f"{server.title} has kernels up to rank {server.kernel_rank}"
        told.append(f"{has} and this adapter has {r}; --max-rank lowers it")
    return told


def largest_rank_setting(server: Server, r: int) -> int:
    """The setting of the largest rank with which a server loads an adapter.

    Args:
        server: Where it is to be loaded.
        r: Its rank, not above what the server allows.
    """
    return next((rank for rank in server.ranks if rank >= r), r)


def last_name(module: str) -> str:
    """Last part of a dotted name, by which servers know a kind of layer: ``q_proj``."""
    return module.rpartition(".")[2]


def _partial_kinds(modules: Iterable[str]) -> list[str]:
    """Kinds of layers that some block lacks, as far as the adapter tells how many blocks there are."""
    blocks: dict[tuple[str, str], set[int]] = {}
    for module in modules:
        if found := _BLOCK.fullmatch(module):
            blocks.setdefault((found["before"], found["kind"]), set()).add(int(found["block"]))
    num_blocks: dict[str, int] = {}
    for (before, _), present in blocks.items():
        num_blocks[before] = max(num_blocks.get(before, 0), max(present) + 1)
    return sorted(kind for (before, kind), present in blocks.items() if len(present) < num_blocks[before])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
