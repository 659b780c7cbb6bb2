"""llama.cpp itself, by way of xllamacpp: a base in GGUF, maybe under an adapter, goes on from a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from torch import Tensor

CONTEXT = 256
"""Tokens that a server holds, and the least that llama.cpp takes."""

QUIET = 0
F32 = xllamacpp.ggml_type.GGML_TYPE_F32


@dataclass(frozen=True)
class Continued:
    """What was said after a prompt.

    Args:
        ids: The likeliest token at each step.
        logprobs_TV: Of every token of the vocabulary at each step.
    """

    ids: list[int]
    logprobs_TV: Tensor


def server_of(base: Path, adapter: Path | None = None) -> xllamacpp.Server:
    """llama.cpp with one slot and one thread, its keys and values in float32 instead of 16 bits.

    Args:
        base: A GGUF file.
        adapter: Another, put on it with scale 1.
    """
    params = xllamacpp.CommonParams()
    params.model.path, params.verbosity, params.warmup, params.ui = str(base), QUIET, False, False
    params.n_ctx, params.n_parallel, params.cache_type_k, params.cache_type_v = CONTEXT, 1, F32, F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = params.n_threads_http = 1
    if adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(params)


def continued(
    server: xllamacpp.Server, prompt: Sequence[int], num_tokens: int, vocab_size: int, scale: float | None = None
) -> Continued:
    """Take the likeliest token again and again.

    Args:
        server: From `server_of`.
        prompt: Token ids.
        num_tokens: How many to take.
        vocab_size: Of the base.
        scale: Of its adapter in this request; as the server was started if ``None``.
    """
    wanted: dict[str, Any] = {"prompt": list(prompt), "n_predict": num_tokens, "temperature": 0, "n_probs": vocab_size}
    wanted |= {"cache_prompt": False, "ignore_eos": False}
    if scale is not None:
        wanted["lora"] = [{"id": 0, "scale": scale}]
    steps = server.handle_completions(wanted)["choices"][0]["logprobs"]["content"]
    logprobs_TV = torch.full((len(steps), vocab_size), float("nan"))
    for logprobs_V, step in zip(logprobs_TV, steps, strict=True):
        for token in step["top_logprobs"]:
            logprobs_V[token["id"]] = token["logprob"]
    return Continued([step["id"] for step in steps], logprobs_TV)
