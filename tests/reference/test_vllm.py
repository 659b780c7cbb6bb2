"""Exported adapters on vLLM itself: a base says under them there what it says under PEFT, and in raylora's own chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raylora.adapters.base import BasePlace, find_base
from raylora.adapters.serving.asked import Asked
from raylora.adapters.serving.served_folder import export_adapter
from raylora.adapters.stored import read_adapter
from raylora.adapters.talking.opening import open_session
from raylora.adapters.talking.session import Options
from raylora.data.tokens.tokenizer import load_tokenizer
from tests.conftest import served
from tests.servers.vllm import NEEDS_VLLM, VllmServer
from tests.unit.adapters.exported_adapters import BASE_NAME, PATTERNS, adapted, base_of, published, saved
from tests.unit.train.tiny_run import save_base

pytestmark = [NEEDS_VLLM, pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = [200, 3, 77, 140, 9, 201, 44]
CHAT = [{"role": "user", "content": "the model reads a question"}]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all-linear": {"target_modules": ALL, "r": 8, "lora_alpha": 16},
    "rslora": {"use_rslora": True},
    "patterns": PATTERNS,
    "rslora-with-patterns": {**PATTERNS, "use_rslora": True},
}
AT_START = "plain"
"""The command on its card starts the server; the others are loaded while it serves."""

FLOAT32 = 1e-4
"""How far log-probabilities may be apart; 0.00003 was seen."""

HEAD_DIM = 32
"""vLLM's attention has no smaller heads."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base under the name that the adapters have it by, and what was exported of each."""
    home = tmp_path_factory.mktemp("vllm")
    save_base(home / BASE_NAME, head_dim=HEAD_DIM, num_hidden_layers=2)
    for kind, fields in ADAPTERS.items():
        stored = published(adapted(home / BASE_NAME, **fields), home / "stores" / kind)
        export_adapter(stored, Asked("vllm", home / kind))
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[VllmServer]:
    _, _, code = (home / AT_START / "README.md").read_text().rpartition("```bash\n")
    command, _, _ = code.partition("\n```")
    yield from served(VllmServer(home, command))


def name_of(kind: str, server: VllmServer, home: Path) -> str:
    """Under which the server knows an adapter; it may have been told before."""
    if kind == AT_START:
        return "adapter"
    problem = server.load(kind, home / kind)
    assert not problem or "already" in problem, problem
    return kind


def check_says(server: VllmServer, name: str, model: nn.Module) -> Tensor:
    """Compare each token's log-probability at 8 steps; returns those of the first by transformers and PEFT."""
    said = server.continued(name, PROMPT, 8)
    with torch.no_grad():
        logits_TV: Tensor = model(torch.tensor([[*PROMPT, *said.ids[:-1]]])).logits[0, len(PROMPT) - 1 :]
    wanted_TV = logits_TV.log_softmax(-1)
    found_TV = torch.tensor([[step[token] for token in range(wanted_TV.shape[1])] for step in said.logprobs])
    torch.testing.assert_close(found_TV, wanted_TV, rtol=0, atol=FLOAT32)
    assert said.ids == wanted_TV.argmax(-1).tolist()
    return wanted_TV[0]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_base_under_an_export_says_what_it_says_under_peft(server: VllmServer, home: Path, kind: str):
    model = adapted(home / BASE_NAME, **ADAPTERS[kind])
    under_V = check_says(server, name_of(kind, server, home), model)
    alone_V = check_says(server, BASE_NAME, base_of(home / BASE_NAME))  # switched request by request
    assert (under_V - alone_V).abs().max() > 1000 * FLOAT32


def test_a_chat_is_answered_as_by_raylora(server: VllmServer, home: Path):
    base = find_base(BasePlace(str(home / BASE_NAME)), home / "cache")
    kinds = ("plain", "rslora")
    session = open_session(base, {kind: read_adapter(str(home / kind)) for kind in kinds}, {"dtype": "float32"})
    names = {None: BASE_NAME, **{kind: name_of(kind, server, home) for kind in kinds}}
    texts = {kind: session.answer(kind, CHAT, Options(max_new_tokens=12)).text for kind in names}
    assert len(set(texts.values())) == len(names)
    tokenizer = load_tokenizer(home / BASE_NAME)
    for kind, name in names.items():
        ids = server.answered(name, CHAT, 12)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == texts[kind], kind


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, "does not yet support DoRA"),
        ({"modules_to_save": ["lm_head"]}, "Unsupported modules_to_save"),
        ({"bias": "all"}, "Adapter bias is not supported"),
        ({"r": 9}, "LoRA rank 9 is greater than max_lora_rank 8"),
    ],
)
def test_it_rejects_what_exports_refuse_and_ranks_above_its_setting(
    server: VllmServer, home: Path, tmp_path: Path, fields: dict[str, Any], words: str
):
    saved(adapted(home / BASE_NAME, **fields), tmp_path)
    assert words in server.load("refused", tmp_path / "adapter")
