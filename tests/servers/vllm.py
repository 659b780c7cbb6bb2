"""vLLM's own server on this machine's CPU, where there is a `vllm` command: docs/serving.md says how to come by one."""

from __future__ import annotations

import json
import shlex
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import Server, free_ports

NEEDS_VLLM = pytest.mark.skipif(
    shutil.which("vllm") is None, reason="there is no `vllm` command on PATH; docs/serving.md says how to install it"
)

LENGTH = 64
"""Tokens of a prompt and its answer."""

ON_A_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONPATH": "",  # it is of another environment
}
EXACT = ("--dtype", "float32", "--enforce-eager", "--max-logprobs", "-1")
SMALL = ("--max-model-len", str(LENGTH), "--max-num-seqs", "2")


@dataclass(frozen=True)
class Said:
    """How a prompt was continued.

    Args:
        ids: The likeliest token at each step.
        logprobs: Of every token at each step, by its id.
    """

    ids: list[int]
    logprobs: list[dict[int, float]]


class VllmServer(Server):
    """vLLM, which may be told of more adapters while it serves.

    Args:
        folder: Where it runs: names in the command are relative to it.
        command: That starts it, as a person would copy it.
    """

    def __init__(self, folder: Path, command: str) -> None:
        program, serve, base, *words = shlex.split(command)
        assert (program, serve) == ("vllm", "serve")
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        where = ("--host", "127.0.0.1", "--port", str(port))
        super().__init__(
            [*_serve(), "--model", base, *words, *where, *EXACT, *SMALL],
            folder / "vllm.log",
            lambda: urllib.request.urlopen(f"{self._url}/health", timeout=5).status == 200,
            env=ON_A_CPU,
            start_timeout_s=200,
        )

    def load(self, name: str, folder: Path) -> str:
        """Have it take up an adapter; returns why it does not, or nothing."""
        try:
            self._ask("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except urllib.error.HTTPError as error:
            return error.read().decode()
        return ""

    def continued(self, model: str, prompt: list[int], num_tokens: int) -> Said:
        """Take the likeliest token again and again, whatever ends a text."""
        wanted = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        told = self._ask("completions", wanted | {"logprobs": -1, "return_tokens_as_token_ids": True})
        logprobs = json.loads(told)["choices"][0]["logprobs"]
        steps = [{_id(token): each for token, each in step.items()} for step in logprobs["top_logprobs"]]
        return Said([_id(token) for token in logprobs["tokens"]], steps)

    def answered(self, model: str, chat: list[dict[str, str]], num_tokens: int) -> list[int]:
        """Answer a chat with the likeliest tokens; returns their ids, since its text leaves out a half character."""
        wanted = {"model": model, "messages": chat, "max_tokens": num_tokens, "temperature": 0}
        told = self._ask("chat/completions", wanted | {"return_token_ids": True})
        return list(json.loads(told)["choices"][0]["token_ids"])

    def _ask(self, what: str, document: dict[str, Any]) -> bytes:
        words = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/{what}", json.dumps(document).encode(), words)
        with urllib.request.urlopen(request, timeout=120) as answer:
            told: bytes = answer.read()
        return told


def _id(token: str) -> int:
    """Of a token that is told as ``token_id:7``."""
    return int(token.removeprefix("token_id:"))


def _serve() -> list[str]:
    """`vllm serve` without its look for the version of a package `vllm`: one for CPUs has another name."""
    found = shutil.which("vllm")
    assert found is not None, "what starts it is marked with NEEDS_VLLM"
    return [str(Path(found).parent / "python"), "-m", "vllm.entrypoints.openai.api_server"]
